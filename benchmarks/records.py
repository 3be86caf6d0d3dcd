"""Read the committed records in benchmarks/results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def newest(what: str, folder: Path = RESULTS) -> dict[str, Any]:
    """Return the newest record of `what` on any machine; of several on one day, the last by file name.

    Args:
        what: First part of the file name.
        folder: Folder of the records.

    Raises:
        FileNotFoundError: The folder has no such record.
    """
    found = [path for path in folder.glob("*.json") if path.stem.rsplit("_", 2)[0] == what]
    if not found:
        raise FileNotFoundError(f"{folder} has no record of {what!r}: run `python -m benchmarks {what}`.")
    path = max(found, key=lambda path: (path.stem.rsplit("_", 1)[1], path.name))
    data: dict[str, Any] = json.loads(path.read_text())
    return data
