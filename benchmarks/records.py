"""Records: dated JSON files of what was measured, and on what."""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from typing import Any

import msgspec

from gcis_runtime.atomic import replacing

RESULTS = Path(__file__).parent / "results"


def write_record(record: dict[str, Any], folder: Path) -> Path:
    """Write a record as `<what>_<hardware>_<yyyymmdd>.json`; returns its path."""
    cpu = record["environment"]["cpu"]
    hardware = re.sub(r"[^a-z0-9]+", "-", f"{cpu['model']} {cpu['usable']}cpu".lower()).strip("-")
    day = datetime.date.today().strftime("%Y%m%d")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record['what']}_{hardware}_{day}.json"
    with replacing(path) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
    return path
