"""Generate the tables of README.md and docs/performance.md from the committed records.

A document contains blocks between `<!-- NAME -->` and `<!-- /NAME -->`. `python -m benchmarks tables`
replaces their text by the result of `BLOCKS[NAME]`; a test fails if a document is out of date.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.compare.tables import ladder_block, large_block, trained_block
from benchmarks.records import newest
from benchmarks.scale.tables import BLOCKS as SCALE_BLOCKS
from gcis_runtime.latency import tables as latency
from gcis_runtime.latency.record import LatencyRecord
from gcis_runtime.latency.record_file import hardware_text
from gcis_runtime.system.atomic_files import replacing

ROOT = Path(__file__).parents[1]
DEMO = ROOT / "examples" / "headneck" / "results"
README = ROOT / "README.md"
DOCUMENTS = (README, ROOT / "docs" / "performance.md")
_BLOCK = re.compile(r"<!-- (?P<name>[a-z0-9-]+) -->\n(?P<table>.*?)<!-- /(?P=name) -->", re.DOTALL)


def demo_table() -> str:
    """Return Dice of each structure of the demo bundle on patients and phantoms, as Markdown."""
    patients, phantoms = (_read(DEMO / name) for name in ("patients.json", "phantoms.json"))
    lines = ["| structure | Dice, patients | patients | Dice, phantoms | phantoms |", "|---|---|---|---|---|"]
    for prompt, row in phantoms["prompts"].items():
        real = patients["prompts"][prompt]
        cells = (prompt, f"{real['mean']:.2f}", real["cases"], f"{row['mean']:.2f}", row["cases"])
        lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    means = f"| **mean** | **{patients['mean_dice']:.2f}** | | **{phantoms['mean_dice']:.2f}** | |"
    note = (
        f"Mean Dice on the grids of the original files, computed by `gcis-run` ({patients['pipeline']}). "
        "Patients are those of the validation list, and phantoms have seeds that were not used in training; "
        "only contoured structures count. Demo, not for clinical use."
    )
    return "\n".join([*lines, means, "", note])


def speed_table() -> str:
    """Return the newest comparison of gcis-run with PyTorch on a phantom as Markdown."""
    record = newest("phantom")
    lines = ["| pipeline | seconds | times faster | labels equal | Dice |", "|---|---|---|---|---|"]
    for row in record["rows"]:
        if "unavailable" in row:
            continue
        speed = f"{row['speedup']:.1f}" if "speedup" in row else "1"
        equal = f"{row['labels_equal']:.3%}" if "labels_equal" in row else ""
        lines.append(f"| {row['pipeline']} | {row['seconds']:.1f} | {speed} | {equal} | {row['dice']:.3f} |")
    shape = " x ".join(str(n) for n in record["voxels"])
    note = (
        f"Phantom {record['phantom_seed']}, {shape} voxels, seven structures, file to label map, one run on "
        f"{record['environment']['date'][:10]}: {hardware_text(record)}. "
        f"Measured with the code of commit {record['environment']['commit']}."
    )
    return "\n".join([*lines, "", note])


def start_table() -> str:
    """Return start times as Markdown."""
    record = newest("start")
    lines = ["| start | median, ms | minimum, ms |", "|---|---|---|"]
    for row in record["rows"]:
        taken = (f"{1e3 * row[key]:.0f}" for key in ("median_seconds", "least_seconds"))
        lines.append(f"| `{row['start']}` | {' | '.join(taken)} |")
    note = (
        f"{record['rounds']} processes of each in turns, files in the page cache, "
        f"{record['environment']['date'][:10]}: "
        f"{hardware_text(record)}. Measured with the code of commit {record['environment']['commit']}."
    )
    return "\n".join([*lines, "", note])


def latency_block() -> str:
    """Return the newest latency record as tables."""
    record = msgspec.convert(newest("latency"), LatencyRecord)
    return "\n\n".join(
        [
            latency.table(latency.overview_head(record), latency.overview(record)),
            latency.table(latency.stage_head(), latency.stage_rows(record)),
            latency.table(latency.WORK_HEAD, latency.work(record)),
            f"{latency.subject_text(record)} {latency.machine_text(record)} {record.note} Repeat with "
            "`python -m benchmarks latency -o DIR`.",
        ]
    )


BLOCKS: dict[str, Callable[[], str]] = {
    "demo-table": demo_table,
    "speed-table": speed_table,
    "start-table": start_table,
    "ladder": ladder_block,
    "compare-12-64": trained_block,
    "compare-48-96": large_block,
    "latency": latency_block,
    **SCALE_BLOCKS,
}
"""Functions that return the text of each block, by name."""


def render(text: str) -> str:
    """Return the text of a document with every block regenerated.

    Raises:
        KeyError: A marker has no function in `BLOCKS`.
    """
    return _BLOCK.sub(lambda m: f"<!-- {m['name']} -->\n{BLOCKS[m['name']]()}\n<!-- /{m['name']} -->", text)


def blocks_of(text: str) -> list[str]:
    """Return the names of the blocks of a document."""
    return [match["name"] for match in _BLOCK.finditer(text)]


def write_documents() -> None:
    """Regenerate the blocks of every document."""
    for document in DOCUMENTS:
        text = render(document.read_text())
        with replacing(document) as temporary:
            temporary.write_text(text)


def _read(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(path.read_text())
    return data
