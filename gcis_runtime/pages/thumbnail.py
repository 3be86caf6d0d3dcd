"""Read the thumbnail that the page of a case contains."""

from __future__ import annotations

import re
from pathlib import Path

_HEAD_BYTES = 1 << 16
_TAG = re.compile(rb'<meta name="thumbnail" content="(data:image/jpeg;base64,[A-Za-z0-9+/=]+)">')


def read_thumbnail(page: Path) -> str:
    """Return the thumbnail of a case's page as a data URI; empty if the file is missing or has none."""
    try:
        with page.open("rb") as file:
            found = _TAG.search(file.read(_HEAD_BYTES))
    except OSError:
        return ""
    return "" if found is None else found[1].decode()
