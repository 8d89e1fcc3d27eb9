"""The shared parts of pages in a real browser, with hostile text in every place that shows text."""

from pathlib import Path

from browser import opened, require_browser
from hostile_answers import hostile_server
from page_checks import check_page

from eval_harness import printable
from eval_harness.shared.pages.cells import Cell, CellGrid
from eval_harness.shared.pages.figures import axes, finish
from eval_harness.shared.pages.heat_map import HeatMap
from eval_harness.shared.pages.palette import shade
from eval_harness.shared.pages.render import render
from eval_harness.shared.pages.tables import Grid


def sample_page(folder: Path, texts: list[str]) -> Path:
    """A page with each of the parts, whose titles, captions, names and cells are `texts`."""
    first, last = texts[0], texts[-1]
    drawing, panels = axes()
    panels[0][0].plot([1, 2], [3, 4], label=first)
    # Not the endless ones: matplotlib would draw a picture as wide as they are.
    panels[0][0].set_title(max(texts, key=lambda text: len(text) * (len(text) < 60)))
    panels[0][0].legend()
    cells = [
        [Cell(text, f"{text} at {row}", *shade(row / 3)) for text in texts] for row in range(3)
    ]
    values = [[row - column / 4 for column in range(len(texts))] for row in range(3)]
    numbers = ["1", "2", "3"]
    page = folder / "page.html"
    text = render(
        "sample_pages",
        "page.html.j2",
        title="Parts",
        table=Grid(first, texts, [texts, texts], (1,), caption=last),
        figure=finish(drawing, name="lines", title=first, caption=last, alt=first or "lines"),
        map=HeatMap("map", first, last, numbers, texts, values, "row", "column", "nats", 2),
        tokens=CellGrid("tokens", "Tokens", last, numbers, texts, "row", "at", cells, is_text=True),
        notes=texts,
    )
    page.write_text(text, encoding="utf-8")
    return page


def test_hostile_text_is_only_text_wherever_it_stands(tmp_path):
    require_browser()
    with hostile_server() as server:
        texts = [printable(text) for text in server.answers().values()]
        check_page(sample_page(tmp_path, texts), server)


def test_wide_maps_scroll_in_their_own_box_and_follow_the_arrow_keys(tmp_path):
    require_browser()
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    page = sample_page(tmp_path, [f"column {number}" for number in range(40)])
    with opened(page, width=390) as browser:
        grid = browser.find_element(By.CSS_SELECTOR, ".cells [role=grid]")
        box = grid.find_element(By.XPATH, "..")
        place = "return [arguments[0].scrollLeft, document.scrollingElement.scrollLeft]"
        grid.send_keys(Keys.HOME)
        assert browser.execute_script(place, box) == [0, 0]
        grid.send_keys(Keys.END)
        moved, page_moved = browser.execute_script(place, box)
        assert (moved > 0, page_moved) == (True, 0)
        line = box.find_element(By.XPATH, "..").find_element(By.TAG_NAME, "output").text
        assert line == "row 1, column column 39: -9.75 nats"


def test_the_page_says_everything_without_its_script(tmp_path):
    require_browser()
    from selenium.webdriver.common.by import By

    page = sample_page(tmp_path, ["a", "b"])
    with opened(page) as browser:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
        browser.get(page.as_uri())
        cells = browser.find_elements(By.CSS_SELECTOR, ".cells td")
        assert cells[1].get_dom_attribute("title") == "row 1, column b: -0.25 nats"
        assert cells[1].text == "-0.25"
