"""A browser without a window, for tests of pages that people click through."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

PROGRAMS = ("chromium", "chromedriver")
OPTIONS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)


@contextmanager
def browser(profile: Path) -> Iterator[Chrome]:
    """Start Chromium with a profile of its own; the test is skipped where it is missing."""
    programs = [shutil.which(one) for one in PROGRAMS]
    if not all(programs):
        pytest.skip("chromium and chromedriver are missing: apt-get install chromium-driver")
    options = ChromeOptions()
    options.binary_location = str(programs[0])
    for one in (*OPTIONS, f"--user-data-dir={profile}"):
        options.add_argument(one)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = Chrome(options=options, service=Service(str(programs[1])))
    try:
        driver.set_page_load_timeout(60)
        yield driver
    finally:
        driver.quit()
