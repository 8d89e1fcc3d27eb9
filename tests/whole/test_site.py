"""The site, built as .ci/site builds it: strict, whole, and complete without a network."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from browser import opened, require_browser

REPO = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=REPO,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Addresses(HTMLParser):
    """What a page loads by itself, what it links to, and the places that it has."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.linked: list[str] = []
        self.places: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if found.get("id"):
            self.places.add(str(found["id"]))
        if tag == "a" and found.get("href"):
            self.linked.append(str(found["href"]))
        elif tag == "link" and found.get("rel") != "canonical":
            self.loaded.append(str(found.get("href")))
        elif found.get("src"):
            self.loaded.append(str(found["src"]))


def read(page: Path) -> Addresses:
    parser = Addresses()
    parser.feed(page.read_text(encoding="utf-8"))
    return parser


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, Addresses]:
    return {path: read(path) for path in site.rglob("*.html")}


def test_no_page_loads_anything_from_elsewhere(site, pages):
    assert len(pages) > 40
    for page, addresses in pages.items():
        outside = [each for each in addresses.loaded if not inside(each)]
        assert not outside, (page, outside)
    for style in site.rglob("*.css"):
        text = style.read_text(encoding="utf-8")
        assert not re.search(r"(@import|url\()\s*[\"']?(https?:)?//", text), style


def inside(address: str) -> bool:
    parts = urlsplit(address)
    return parts.scheme in ("", "data") and not parts.netloc


def test_every_link_and_anchor_leads_somewhere(pages):
    for page, addresses in pages.items():
        if page.name == "404.html":
            continue
        for target, place in inner_links(page, addresses):
            assert target.exists(), (page, target)
            if place and target in pages:
                assert place in pages[target].places, (page, target, place)


def inner_links(page: Path, addresses: Addresses) -> Iterator[tuple[Path, str]]:
    for link in addresses.linked:
        parts = urlsplit(link)
        if inside(link) and parts.scheme != "data":
            target = page if not parts.path else (page.parent / unquote(parts.path)).resolve()
            yield target, unquote(parts.fragment)


def test_linked_files_of_the_repository_are_shown_as_they_are(site):
    page = (site / "repository" / "recipes" / "smollm2.yaml.html").read_text(encoding="utf-8")
    text = re.sub(r"<[^>]+>", "", page)
    for line in (REPO / "recipes" / "smollm2.yaml").read_text(encoding="utf-8").split("\n")[:5]:
        assert line.strip() in text
    methods = read(site / "repository" / "recipes" / "methods.html")
    assert "methods/fkl.yaml.html" in methods.linked


def test_the_first_page_is_the_readme_and_its_links_stay_within_the_site(site):
    index = read(site / "index.html")
    assert "training.html" in index.linked
    assert "contributing.html" in index.linked
    assert not [link for link in index.linked if link.startswith("docs/")]


def test_every_page_of_docs_is_in_the_navigation(site):
    index = read(site / "index.html")
    for page in (REPO / "docs").glob("*.md"):
        assert f"{page.stem}.html" in index.linked, page


def test_the_index_of_the_search_has_the_pages_but_not_the_shown_files(site):
    entries = json.loads((site / "search" / "search_index.json").read_text(encoding="utf-8"))
    places = {entry["location"] for entry in entries["docs"]}
    assert "errors.html" in places
    assert not [place for place in places if place.startswith("repository/")]


def test_a_page_on_disk_is_searched_and_follows_the_readers_colours(site):
    require_browser()
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    with opened(site / "choosing.html", dark=True) as browser:
        WebDriverWait(browser, 20).until(
            lambda b: (
                b.find_element(By.TAG_NAME, "body").get_attribute("data-md-color-scheme") == "slate"
            )
        )
        browser.execute_script("document.querySelector('[data-md-toggle=search]').click()")
        browser.find_element(By.CSS_SELECTOR, "input.md-search__input").send_keys("self-check")
        found = WebDriverWait(browser, 20).until(
            lambda b: b.find_elements(By.CSS_SELECTOR, ".md-search-result__link")
        )
        assert any("errors.html" in (link.get_attribute("href") or "") for link in found)
        wrong = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        assert not wrong


def test_nothing_is_wider_than_a_phone(site):
    require_browser()
    for page in ("index.html", "errors.html", "api.html", "results.html"):
        with opened(site / page, width=390) as browser:
            wide = browser.execute_script("return document.documentElement.scrollWidth")
            assert wide <= 390, page


def test_the_pictures_of_the_notebook_are_shown(site):
    require_browser()
    with opened(site / "tour.html") as browser:
        widths = browser.execute_async_script(
            "const pictures = [...document.querySelectorAll('article img')];"
            "Promise.allSettled(pictures.map((each) => each.decode()))"
            ".then(() => arguments[0](pictures.map((each) => each.naturalWidth)));"
        )
        assert len(widths) >= 4
        assert all(widths)
