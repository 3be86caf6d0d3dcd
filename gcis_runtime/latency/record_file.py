"""Write records: dated JSON files named after what was measured and the machine."""

from __future__ import annotations

import datetime
import re
from pathlib import Path
from typing import Any

from gcis_runtime.system.json_files import write_json


def write_record(record: dict[str, Any], folder: Path) -> Path:
    """Write a record as `<what>_<hardware>_<yyyymmdd>.json`.

    Args:
        record: Record with the keys `what` and `environment`.
        folder: Folder of the file; it is created if it does not exist.

    Returns:
        Path of the file.

    Raises:
        OutputError: The file cannot be written.
    """
    day = datetime.date.today().strftime("%Y%m%d")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{record['what']}_{hardware(record)}_{day}.json"
    write_json(path, record)
    return path


def hardware(record: dict[str, Any]) -> str:
    """Return the machine's part of a record's file name: processor, usable cores and the first GPU."""
    cpu, gpus = record["environment"]["cpu"], record["environment"].get("gpus", [])
    parts = [f"{cpu['model']} {cpu['usable']}cpu", *(gpus[0]["name"] for _ in gpus[:1])]
    return re.sub(r"[^a-z0-9]+", "-", " ".join(parts).lower()).strip("-")


def hardware_text(record: dict[str, Any]) -> str:
    """Describe the machine of a record: processor, usable cores, instruction sets and GPUs."""
    cpu, gpus = record["environment"]["cpu"], record["environment"].get("gpus", [])
    text = f"{cpu['model']}, {cpu['usable']} cores ({', '.join(cpu['flags'])})"
    return text + "".join(f", {gpu['name']}" for gpu in gpus)
