"""What every page of this project keeps to, asked of a real browser.

check_page(tmp_path / "report.html")                              # any page
with hostile_server() as server: ... check_page(page, server)     # one with hostile answers
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from browser import WIDTHS, look_as, opened, require_browser
from hostile_answers import HostileServer

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

_RAN = "return [document.title, window.canary === undefined, location.protocol]"
_DOUBLED = """
const ids = Array.from(document.querySelectorAll('[id]'), (it) => it.id);
return ids.filter((id, place) => ids.indexOf(id) !== place)"""
_STRANGE = """
return Array.from(document.querySelectorAll('*')).filter((it) =>
  ['IFRAME', 'OBJECT', 'EMBED', 'LINK', 'BASE', 'FORM', 'INPUT'].includes(it.tagName)
  || it.getAttributeNames().some((name) => name.startsWith('on'))
  || /^\\s*javascript:/i.test(it.getAttribute('href') || '')
  || (it.tagName === 'SCRIPT' && it !== document.body.lastElementChild)
).map((it) => it.outerHTML.slice(0, 200))"""
_NAMELESS = """
return Array.from(document.querySelectorAll('img, svg, [role=grid], [role=region]')).filter((it) =>
  !(it.getAttribute('alt') || it.getAttribute('aria-label') || '').trim()
).map((it) => it.outerHTML.slice(0, 200))"""
# What sticks out of the page: boxes that scroll by themselves may hold more than they show.
_WIDER = """
const width = document.documentElement.clientWidth;
if (document.documentElement.scrollWidth <= width) return [];
return Array.from(document.querySelectorAll('body *')).filter((it) =>
  !it.closest('.scroll *, pre *') && it.getBoundingClientRect().right > width + 1
).map((it) => it.outerHTML.slice(0, 200)).concat(['page: ' + document.documentElement.scrollWidth])
"""
_INK = """
const page = getComputedStyle(document.body).color;
return Array.from(document.querySelectorAll('.drawn svg text')).filter((it) =>
  getComputedStyle(it).fill !== page).map((it) => it.textContent)"""
_BACK = "return getComputedStyle(document.body).backgroundColor"
# What is folded away is checked, too.
_UNFOLD = "for (const it of document.querySelectorAll('details')) it.open = true"
_STOPS = "return document.querySelectorAll('.cells td[tabindex], .cells th[tabindex]').length"
_LINE = """
const box = arguments[0];
return [box.querySelector('output').textContent, box.querySelector('td.at').title]"""


def check_page(page: Path, server: HostileServer | None = None) -> None:
    """Opens a page and asserts that it is safe, complete by itself, and usable by everyone.

    Args:
        server: that the page's hostile answers point to; it must not have been asked.
    """
    require_browser()
    with opened(page) as browser:
        title = browser.title
        assert title.strip()
        assert title != "owned"
        assert browser.execute_script(_RAN) == [title, True, "file:"], "the page was left"
        browser.execute_script(_UNFOLD)
        _is_sound(browser)
        backs = set()
        for width in WIDTHS:
            for dark in (False, True):
                look_as(browser, width=width, dark=dark)
                assert browser.execute_script(_WIDER) == [], f"{width} pixels: wider than the page"
                assert browser.execute_script(_INK) == [], "text of a figure in another ink"
                backs.add(browser.execute_script(_BACK))
        assert len(backs) == 2, "light and dark have one background"
        _walks(browser)
        # Pointing at things and walking through them has woken nothing up either.
        assert browser.execute_script(_RAN) == [title, True, "file:"]
        told = [line for line in browser.get_log("browser") if line["level"] != "INFO"]
        assert told == []
        loaded = browser.execute_script("return performance.getEntriesByType('resource').length")
        assert loaded == 0, "the page has loaded files"
    assert server is None or server.asked == []


def _is_sound(browser: "Chrome") -> None:
    assert browser.execute_script(_STRANGE) == [], "markup that is not the page's own"
    assert browser.execute_script(_DOUBLED) == [], "two things have one id"
    assert browser.execute_script(_NAMELESS) == [], "without a name for those who cannot see it"


def _walks(browser: "Chrome") -> None:
    """Each grid of cells is one tab stop, and its line tells about the cell that arrows lead to."""
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    assert browser.execute_script(_STOPS) == 0, "a grid of cells has more than one tab stop"
    for box in browser.find_elements(By.CSS_SELECTOR, ".cells"):
        grid: Any = box.find_element(By.CSS_SELECTOR, "[role=grid]")
        browser.execute_script("arguments[0].focus()", grid)
        seen = [browser.execute_script(_LINE, box)]
        num_columns = len(grid.find_elements(By.CSS_SELECTOR, "tbody tr:first-child td"))
        for key in (Keys.ARROW_RIGHT, Keys.ARROW_DOWN, Keys.END, Keys.HOME, Keys.ARROW_UP):
            grid.send_keys(key)
            seen.append(browser.execute_script(_LINE, box))
        assert all(line == title and line.strip() for line, title in seen)
        assert num_columns < 2 or seen[0] != seen[1]
        # Home leads back to the first column, up to the first row: the cell it began with.
        assert seen[-1] == seen[0]
