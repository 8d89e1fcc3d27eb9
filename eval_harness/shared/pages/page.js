"use strict";
// Pointing at a cell, or walking to it with the arrow keys, shows what it says below its grid.
for (const box of document.querySelectorAll(".cells")) {
  const grid = box.querySelector("table");
  const line = box.querySelector("output");
  const rows = Array.from(grid.tBodies[0].rows, (row) => Array.from(row.querySelectorAll("td")));
  let [row, column] = [0, 0];
  const show = (r, c) => {
    const cell = rows[r] && rows[r][c];
    if (!cell) return;
    rows[row][column].classList.remove("at");
    [row, column] = [r, c];
    cell.classList.add("at");
    line.textContent = cell.title;
  };
  grid.addEventListener("mouseover", (event) => {
    const cell = event.target.closest("td");
    if (cell) {
      const r = rows.findIndex((cells) => cells.includes(cell));
      if (r >= 0) show(r, rows[r].indexOf(cell));
    }
  });
  grid.addEventListener("focus", () => show(row, column));
  grid.addEventListener("keydown", (event) => {
    const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
    let target = null;
    if (steps[event.key]) target = [row + steps[event.key][0], column + steps[event.key][1]];
    if (event.key === "Home") target = [row, 0];
    if (event.key === "End") target = [row, rows[row].length - 1];
    if (!target) return;
    event.preventDefault();
    show(...target);
    rows[row][column].scrollIntoView({ block: "nearest", inline: "nearest" });
  });
}
