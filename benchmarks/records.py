"""Records: dated JSON files of what was measured, and on what."""

from __future__ import annotations

import datetime
import json
import re
from pathlib import Path
from typing import Any

import msgspec

from gcis_runtime.system.atomic_files import replacing

RESULTS = Path(__file__).parent / "results"


def write_record(record: dict[str, Any], folder: Path) -> Path:
    """Write a record as `<what>_<hardware>_<yyyymmdd>.json`; returns its path."""
    day = datetime.date.today().strftime("%Y%m%d")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record['what']}_{hardware(record)}_{day}.json"
    with replacing(path) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2) + b"\n")
    return path


def hardware(record: dict[str, Any]) -> str:
    """Return the machine's part of a record's name: processor, usable cores, and the first GPU."""
    cpu, gpus = record["environment"]["cpu"], record["environment"].get("gpus", [])
    parts = [f"{cpu['model']} {cpu['usable']}cpu", *(gpus[0]["name"] for _ in gpus[:1])]
    return re.sub(r"[^a-z0-9]+", "-", " ".join(parts).lower()).strip("-")


def hardware_text(record: dict[str, Any]) -> str:
    """Say for people what a record was measured on."""
    cpu, gpus = record["environment"]["cpu"], record["environment"].get("gpus", [])
    text = f"{cpu['model']}, {cpu['usable']} cores ({', '.join(cpu['flags'])})"
    return text + "".join(f", {gpu['name']}" for gpu in gpus)


def newest(what: str, folder: Path = RESULTS) -> dict[str, Any]:
    """Return the newest record of `what`, whatever the machine; the last by name of one day's.

    Raises:
        FileNotFoundError: There is none.
    """
    found = [path for path in folder.glob("*.json") if path.stem.rsplit("_", 2)[0] == what]
    if not found:
        raise FileNotFoundError(f"{folder} holds no record of {what!r}: run `python -m benchmarks {what}`.")
    path = max(found, key=lambda path: (path.stem.rsplit("_", 1)[1], path.name))
    data: dict[str, Any] = json.loads(path.read_text())
    return data
