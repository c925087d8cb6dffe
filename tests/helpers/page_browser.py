"""A report page in a browser: what tests do with it."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

HOSTILE = "</script><script>window.hurt=1;alert(1)</script><img src=x onerror='window.hurt=2'>{{7*7}}"
FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1280,1000"
)
ROWS = 45
GAINS = [(row * 7) % ROWS - 10.0 for row in range(ROWS)]
"""What stage 0 adds to each held-out demonstration: -10 to 34, in no order."""

Browser = Any


def find_or_skip(*names: str) -> str:
    """A program of the machine. Without it the test is skipped; where CI is set it fails."""
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"none of {', '.join(names)} is installed")
    return str(found)


def open_browser(profile: Path) -> Iterator[Browser]:
    """Chromium with what it logs; for a fixture."""
    chromium, chromedriver = find_or_skip("chromium", "chromium-browser", "google-chrome"), find_or_skip("chromedriver")
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in [*FLAGS.split(), f"--user-data-dir={profile}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(chromedriver))
    driver.set_page_load_timeout(60)
    yield driver
    driver.quit()


def set_width(page: Browser, width: int) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": True}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def choose(page: Browser, control: str, value: str) -> None:
    from selenium.webdriver.support.ui import Select

    Select(page.find_element("id", control)).select_by_visible_text(value)


def shown(page: Browser) -> list[str]:
    """Keys of the samples on the page."""
    titles = page.execute_script("return [...document.querySelectorAll('.sample h3')].map((h) => h.textContent)")
    return [title.split(" · ")[1] for title in titles]


def errors(page: Browser) -> list[str]:
    return [entry["message"] for entry in page.get_log("browser") if entry["level"] in ("SEVERE", "WARNING")]
