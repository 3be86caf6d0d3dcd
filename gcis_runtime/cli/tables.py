"""Format run reports as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gcis_runtime.text import counted, printable, table


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
    skipped = f", {windows['skipped']} skipped" if windows.get("skipped") else ""
    saved = report.get("crop", {}).get("windows_saved", 0)
    skipped += f", {saved} saved by the crop" if saved else ""
    memory = f"; peak memory {peak / 2**20:.0f} MiB" if peak else ""
    lines = [
        printable(report["image"]),
        table(rows, right=(0, 2, 3)),
        _region_text(report.get("region", {})),
        f"{times}; {counted(windows['total'], 'window')}{reused}{skipped}{memory}",
        "wrote " + printable(", ".join(_written(report))),
        report["notice"],
    ]
    return "\n".join(line for line in lines if line)


def _region_text(region: Mapping[str, Any]) -> str:
    """Say where labels were looked for, and what lies elsewhere; nothing where that is the whole volume."""
    if "within" not in region:
        return ""
    box = region["box"]
    place = "nothing" if box is None else ",".join(f"{first}:{end}" for first, end in box)
    return f"region {place} ({region['within']}): every label outside is background"


def _written(report: dict[str, Any]) -> list[str]:
    """Return the files and folders that hold an image's results."""
    folders = [next(iter(report[n].values())) for n in ("masks", "probability") if report.get(n)]
    files = [report[name] for name in ("labels", "statistics", "preview") if name in report]
    return [*files, *(str(Path(file).parent) for file in folders)]


def counts_text(counts: Mapping[str, int]) -> str:
    """Say how many cases have each status, such as `3 done, 1 failed`; every case has one."""
    names = {"done": "done", "skipped": "done by an earlier run", "failed": "failed", "waiting": "not done"}
    return ", ".join(f"{counts[name]} {text}" for name, text in names.items() if counts.get(name))
