"""Reports as aligned text for people."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


def table(rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Align rows in columns two blanks apart.

    Args:
        rows: Cells, the header first; all rows of one length.
        right: Columns that are aligned to the right (numbers).
    """
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))] if rows else []
    lines = []
    for row in rows:
        cells = [
            cell.rjust(w) if c in right else cell.ljust(w)
            for c, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def report_table(report: dict[str, Any]) -> str:
    """Show one image's report: structures with volumes (and Dice), stage times, where the results are."""
    scored = any("dice" in s for s in report["structures"])
    rows = [["value", "structure", "volume mL", *(["Dice"] if scored else [])]]
    for s in report["structures"]:
        row = [str(s["value"]), s["name"], f"{s['volume_ml']:.1f}"]
        if scored:
            row.append("-" if s.get("dice") is None else f"{s['dice']:.3f}")
        rows.append(row)
    scores = [s["dice"] for s in report["structures"] if s.get("dice") is not None]
    if scores:
        rows.append(["", "mean", "", f"{sum(scores) / len(scores):.3f}"])
    times = ", ".join(f"{name} {value:.2f} s" for name, value in report["seconds"].items())
    windows = report["windows"]
    reused = f" ({windows['reused']} constant, reused)" if windows["reused"] else ""
    peak = report["peak_memory_bytes"]
    memory = f"; peak memory {peak / 2**20:.0f} MiB" if peak else ""
    lines = [
        report["image"],
        table(rows, right=(0, 2, 3)),
        f"{times}; {windows['total']} windows{reused}{memory}",
        f"wrote {report['labels']}" + (f" and {report['preview']}" if "preview" in report else ""),
        report["notice"],
    ]
    return "\n".join(line for line in lines if line)
