"""The page about runs in a real browser: nothing that models wrote runs, and all can be read."""

import json

import pytest
from browser import look_as, require_browser, started
from run_by_hand import run_by_hand, write_lines

from distillens_plugin.reports.run_report import write_report

HOSTILE = [
    "<script>window.canary = 1; document.title = 'owned'</script>",
    '<img src="x" onerror="window.canary = 1">"><svg/onload=window.canary=1>',
    "</pre></article></style></script><script>window.canary = 1</script>{{ 7 * 7 }}{% raw %}",
    "[link](javascript:window.canary=1) \u202e\u0007\ufeff \ud800 " + "W" * 3000,
]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """Two runs side by side whose answers, names and settings are hostile."""
    require_browser()
    folder = tmp_path_factory.mktemp("pages")
    evil = "<img src=x onerror=window.canary=1>"
    runs = []
    for number in range(2):
        run = run_by_hand(folder / f"{evil}{number}", seed=number)
        # Of several runs the last answers are shown.
        answer = {"step": 60, "row": evil, "prompt": HOSTILE[0], "reference": HOSTILE[1]}
        write_lines(run / "answers.jsonl", [{**answer, "answer": HOSTILE[2 + number]}])
        recipe = (run / "recipe.yaml").read_text()
        text = recipe + f"notes: {json.dumps(HOSTILE[number])}\n"
        (run / "recipe.yaml").write_text(text)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for line in lines:
            if "kd" in line:
                line["<script>window.canary=1</script>"] = 1.0
        write_lines(run / "metrics.jsonl", lines)
        runs.append(run)
    return write_report(runs, output_dir=folder / "out")


@pytest.fixture(scope="module")
def browser(page):
    with started(width=1400) as found:
        found.get(page.as_uri())
        yield found


def test_nothing_that_a_model_wrote_runs(browser):
    assert browser.execute_script("return window.canary") is None
    assert "owned" not in browser.title
    assert "{{ 7 * 7 }}" in browser.page_source
    assert browser.find_elements("css selector", "main img, main script") == []
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("width", [390, 900, 1400])
@pytest.mark.parametrize("dark", [False, True])
def test_the_page_does_not_scroll_sideways(browser, width, dark):
    look_as(browser, width=width, dark=dark)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_ids_are_unique_and_drawings_have_names(browser):
    ids = browser.execute_script("return [...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids)) > 20
    names = browser.execute_script(
        "return [...document.querySelectorAll('figure svg')].map(e => e.getAttribute('aria-label'))"
    )
    assert len(names) >= 6
    assert all(names)


def test_a_map_is_walked_by_keyboard(browser):
    from selenium.webdriver.common.keys import Keys

    look_as(browser, width=1400)
    (first, *_) = browser.find_elements("css selector", "[role=grid]")
    output = first.find_element("xpath", "ancestor::figure//output")
    first.send_keys(Keys.ARROW_RIGHT)
    before = output.text
    first.send_keys(Keys.ARROW_DOWN)
    assert before != output.text
    assert "2-2" in output.text
    assert "nats" in output.text
