"""A lens map's page in a real browser, with tokens and names that attack it."""

from browser import opened, require_browser
from hostile_answers import hostile_server
from lens_map_sample import lens_map_sample
from page_checks import check_page

from distillens_plugin.reports.lens_page import write_lens_page


def test_hostile_tokens_and_names_run_nothing_and_do_not_spoil_the_page(tmp_path):
    require_browser()
    with hostile_server() as server:
        page = write_lens_page(lens_map_sample(list(server.answers().values())), tmp_path / "map")
        check_page(page, server)


def test_the_keyboard_shows_the_five_most_probable_tokens(tmp_path):
    require_browser()
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    page = write_lens_page(lens_map_sample(), tmp_path / "map")
    with opened(page, width=390, dark=True) as browser:
        grid = browser.find_element(By.CSS_SELECTOR, ".words [role=grid]")
        grid.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_DOWN)
        line = grid.find_element(By.XPATH, "../..").find_element(By.TAG_NAME, "output").text
        assert line.startswith("layer 1, position 1, after b: b 0.500, ↵ 0.200, ·a 0.100, ")
        assert "Next is ↵: rank 2, probability 0.200. Entropy 1.50 nats" in line
