"""A real headless Chromium, driven by selenium, for tests that look at pages.

    with opened(Path("report.html"), width=390, dark=True) as browser:
        assert browser.title

`python tests/helpers/browser.py PAGE FOLDER` writes pictures of a page at three widths, light and
dark, for a person to look at.
"""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

WIDTHS = (390, 900, 1400)
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
)


def missing() -> str | None:
    """Why there is no browser to test with; None if there is one."""
    if _browser() is None:
        return "there is neither chromium nor google-chrome on this machine"
    return None if shutil.which("chromedriver") else "there is no chromedriver on this machine"


def _browser() -> str | None:
    return shutil.which("chromium") or shutil.which("google-chrome")


def require_browser() -> None:
    """Skips a test where there is no browser; in CI, which installs one, that is a failure."""
    import pytest

    reason = missing()
    if reason is not None:
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)


@contextmanager
def started(*, width: int = 1400, height: int = 900, dark: bool = False) -> Iterator["Chrome"]:
    """A browser with a profile of its own, `width` x `height` CSS pixels; closed at the end."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = _browser() or ""
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in _FLAGS:
        options.add_argument(flag)
    with tempfile.TemporaryDirectory() as profile:
        options.add_argument(f"--user-data-dir={profile}")
        service = webdriver.ChromeService(shutil.which("chromedriver"))
        browser = webdriver.Chrome(options=options, service=service)
        try:
            browser.set_page_load_timeout(60)
            look_as(browser, width=width, height=height, dark=dark)
            yield browser
        finally:
            browser.quit()


@contextmanager
def opened(page: Path, *, width: int = 1400, dark: bool = False) -> Iterator["Chrome"]:
    """A browser that shows a file."""
    with started(width=width, dark=dark) as browser:
        browser.get(page.absolute().as_uri())
        yield browser


def look_as(browser: "Chrome", *, width: int, height: int = 900, dark: bool = False) -> None:
    """Sets the size of the window, below the smallest of a desktop too, and the colour scheme."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})


def screenshots(page: Path, folder: Path) -> list[Path]:
    """Pictures of the whole page at each width, light and dark."""
    import base64

    folder.mkdir(parents=True, exist_ok=True)
    pictures = []
    with opened(page) as browser:
        for width in WIDTHS:
            for dark in (False, True):
                look_as(browser, width=width, dark=dark)
                found = browser.execute_cdp_cmd(
                    "Page.captureScreenshot", {"captureBeyondViewport": True, **_whole(browser)}
                )
                name = f"{page.stem}_{width}_{'dark' if dark else 'light'}.png"
                (folder / name).write_bytes(base64.b64decode(found["data"]))
                pictures.append(folder / name)
    return pictures


def _whole(browser: "Chrome") -> dict[str, object]:
    size = browser.execute_cdp_cmd("Page.getLayoutMetrics", {})["cssContentSize"]
    return {"clip": {"x": 0, "y": 0, "width": size["width"], "height": size["height"], "scale": 1}}


if __name__ == "__main__":
    for picture in screenshots(Path(sys.argv[1]), Path(sys.argv[2])):
        print(picture)
