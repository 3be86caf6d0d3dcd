"""Fixtures of all tests: the bundle store and the engine cache are in a temporary folder."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def gcis_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Put `$GCIS_HOME` into a temporary folder for the whole run."""
    before = os.environ.get("GCIS_HOME")
    os.environ["GCIS_HOME"] = str(tmp_path_factory.mktemp("home"))
    yield
    if before is None:
        del os.environ["GCIS_HOME"]
    else:
        os.environ["GCIS_HOME"] = before
