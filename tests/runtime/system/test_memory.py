"""Test parsing of amounts of memory."""

from __future__ import annotations

import pytest

from gcis_runtime.errors import OutputError
from gcis_runtime.system.memory import parse_bytes


@pytest.mark.parametrize(
    ("text", "size"), [("2G", 2 << 30), ("1.5GiB", 3 << 29), ("800m", 800 << 20), (" 64 KB", 65536), ("7", 7)]
)
def test_amounts(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1G", "G", "2X", "1e9", "0.1"])
def test_what_is_no_amount_is_refused(text):
    with pytest.raises(OutputError, match="not an amount of memory"):
        parse_bytes(text)
