"""Open pages in headless Chromium, and read the colours that are on the screen."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
PATIENCE = 120_000
"""Milliseconds."""


@contextmanager
def launched() -> Iterator[Any]:
    """Start Chromium; the test is skipped if Chromium or playwright is missing."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    arguments = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def browsing(browser: Any, *, expect_errors: bool = False) -> Iterator[Any]:
    """Yield a page without cookies; afterwards, check that it logged no error and left its host alone."""
    page = browser.new_page(viewport={"width": 1400, "height": 1000})
    page.set_default_timeout(PATIENCE)
    errors: list[str] = []
    hosts: set[str] = set()
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda request: hosts.add(urlsplit(request.url).netloc))
    try:
        yield page
        if not expect_errors:
            assert not errors, errors
        assert len(hosts - {""}) <= 1, hosts
    finally:
        page.close()


def screen(page: Any) -> np.ndarray:
    """Return the visible part of a page, (height, width, 3)."""
    with Image.open(io.BytesIO(page.screenshot())) as picture:
        return np.asarray(picture.convert("RGB")).astype(int)
