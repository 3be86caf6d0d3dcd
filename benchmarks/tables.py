"""README tables, generated from records: a number in the README is a number in a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DEMO = ROOT / "examples" / "headneck" / "results"
README = ROOT / "README.md"


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
        "Mean Dice on the grids of the original files, through `gcis-run`'s own code "
        f"({patients['pipeline']}). "
        "Validation patients of the datalist and phantom seeds that no training saw; only contoured "
        "structures count. Demo, not for clinical use."
    )
    return "\n".join([*lines, means, "", note])


def speed_table() -> str:
    """Return the newest phantom comparison as Markdown."""
    record = _read(max(RESULTS.glob("phantom_*.json"), key=lambda path: path.stem.rsplit("_", 1)[1]))
    lines = ["| pipeline | seconds | times faster | labels equal | Dice |", "|---|---|---|---|---|"]
    for row in record["rows"]:
        if "unavailable" in row:
            continue
        speed = f"{row['speedup']:.1f}" if "speedup" in row else "1"
        equal = f"{row['labels_equal']:.3%}" if "labels_equal" in row else ""
        lines.append(f"| {row['pipeline']} | {row['seconds']:.1f} | {speed} | {equal} | {row['dice']:.3f} |")
    e = record["environment"]
    shape = " x ".join(str(n) for n in record["voxels"])
    note = (
        f"Phantom {record['phantom_seed']}, {shape} voxels, seven structures, file to label map, one run on "
        f"{e['date'][:10]}: "
        f"{e['cpu']['model']}, {e['cpu']['usable']} cores ({', '.join(e['cpu']['flags'])}). "
        "Repeat with `python -m benchmarks phantom`."
    )
    return "\n".join([*lines, "", note])


def render(text: str) -> str:
    """Return the README's text with both tables put between their markers."""
    for name, table in (("demo-table", demo_table()), ("speed-table", speed_table())):
        before, rest = text.split(f"<!-- {name} -->\n")
        after = rest.split(f"<!-- /{name} -->")[1]
        text = f"{before}<!-- {name} -->\n{table}\n<!-- /{name} -->{after}"
    return text


def _read(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(path.read_text())
    return data
