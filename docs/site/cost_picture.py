"""Draws docs/pictures/cost.png, quality against cost, from the table above it in docs/results.md.

Usage: python docs/site/cost_picture.py
"""

import re
from pathlib import Path

import numpy as np

from eval_harness.shared.pages.figures import axes, finish

DOCS = Path(__file__).resolve().parents[1]
PICTURE = DOCS / "pictures" / "cost.png"
# Cost and loss; of a lens its name too.
Plain = tuple[float, float]
Lens = tuple[float, float, str]
_NUMBER = re.compile(r"\d+\.\d+")


def rows(text: str) -> list[list[str]]:
    """The cells of the table of "Fewer positions", without its header."""
    section = text.split("\n### Fewer positions", 1)[1].split("\n#", 1)[0]
    lines = [line for line in section.split("\n") if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def points(table: list[list[str]]) -> tuple[list[Lens], list[Plain]]:
    """Each lens, and FKL for as long; losses are means over seeds."""
    lenses: list[Lens] = []
    plain: list[Plain] = []
    for name, _, mean, _, cost, same_time in table:
        x, y = float(cost), float(_NUMBER.findall(mean)[0])
        if "FKL" in name:
            plain.append((x, y))
            continue
        lenses.append((x, y, name))
        if found := _NUMBER.findall(same_time):
            plain.append((x, float(found[-1])))
    return sorted(lenses), sorted(plain)


def main() -> None:
    lenses, plain = points(rows((DOCS / "results.md").read_text(encoding="utf-8")))
    figure, ((panel,),) = axes(1, 1, size=(7.2, 4.0))
    panel.plot(*zip(*plain, strict=True), marker="s", label="plain distillation (FKL), more steps")
    (line,) = panel.plot(
        [x for x, _, _ in lenses],
        [y for _, y, _ in lenses],
        marker="o",
        linestyle="",
        label="FKL and a lens, 280 steps",
    )
    for x, y, name in lenses:
        above = y > np.interp(x, *zip(*plain, strict=True))
        panel.annotate(
            name.removesuffix(" by divergence"),
            (x, y),
            xytext=(0, 7 if above else -14),
            textcoords="offset points",
            horizontalalignment="center",
            fontsize=8,
            color=line.get_color(),
        )
    panel.set_xlabel("time, as a multiple of 280 steps of FKL")
    panel.set_ylabel("validation loss (nats per response token)")
    panel.set_xlim(0.95, 2.25)
    panel.legend(fontsize=8)
    made = finish(
        figure,
        name="cost",
        title="Quality against cost",
        caption="Below the line is better than plain distillation for the same time.",
        alt="Validation loss of lenses against the time of plain distillation",
    )
    PICTURE.write_bytes(made.png)


if __name__ == "__main__":
    main()
