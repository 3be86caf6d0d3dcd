"""Format run reports as tables for the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from gcis_runtime.pipeline.report import Report
from gcis_runtime.pipeline.report_parts import PostReport, RegionReport
from gcis_runtime.runs.summary_document import Status
from gcis_runtime.text import counted, printable, table


def report_table(report: Report) -> str:
    """Return the report of one image as text: structures, volumes, Dice, stage times, output files."""
    dice = {s.value: s.dice for s in report.structures}
    scores = [score for score in dice.values() if isinstance(score, float)]
    scored = any(score is None or isinstance(score, float) for score in dice.values())
    rows = [["value", "structure", "volume mL", *(["Dice"] if scored else [])]]
    for s in report.structures:
        row = [str(s.value), s.name, f"{s.volume_ml:.1f}"]
        if scored:
            row.append(f"{s.dice:.3f}" if isinstance(s.dice, float) else "-")
        rows.append(row)
    if scores:
        rows.append(["", "mean", "", f"{sum(scores) / len(scores):.3f}"])
    lines = [
        printable(report.image),
        table(rows, right=(0, 2, 3)),
        _post_text(report),
        _region_text(report.region),
        _straightened_text(report),
        _cost_text(report),
        "wrote " + printable(", ".join(_written(report))),
        report.notice,
    ]
    return "\n".join(line for line in lines if line)


def _cost_text(report: Report) -> str:
    """Return stage times, numbers of windows and peak memory in one line."""
    times = ", ".join(f"{name} {value:.2f} s" for name, value in report.seconds.items())
    windows = report.windows
    reused = f" ({windows.reused} constant, reused)" if windows.reused else ""
    skipped = f", {windows.skipped} skipped" if windows.skipped else ""
    saved = report.crop.windows_saved
    skipped += f", {saved} saved by the crop" if isinstance(saved, int) and saved else ""
    peak = report.peak_memory_bytes
    memory = f"; peak memory {peak / 2**20:.0f} MiB" if peak else ""
    return f"{times}; {counted(windows.total, 'window')}{reused}{skipped}{memory}"


def _post_text(report: Report) -> str:
    """Return the structures that post-processing changed in one line; empty without rules."""
    found = [(s.name, s.post) for s in report.structures if isinstance(s.post, PostReport)]
    changes = [
        f"{name} ({post.rules}) -{post.removed} +{post.added}"
        for name, post in found
        if post.removed or post.added
    ]
    if not changes:
        return "post-processing changed no voxel" if found else ""
    return f"post-processing, voxels removed and added: {', '.join(changes)}"


def _region_text(region: RegionReport) -> str:
    """Return the region and the label outside it in one line; empty for the whole volume."""
    if not isinstance(region.within, str):
        return ""
    ranges = region.box if isinstance(region.box, list) else None
    place = "nothing" if ranges is None else ",".join(f"{first}:{end}" for first, end in ranges)
    return f"region {place} ({region.within}): every label outside is background"


def _straightened_text(report: Report) -> str:
    """Return by which angle the image was straightened in one line; empty if it was not."""
    if not isinstance(report.straightened, float):
        return ""
    return (
        f"straightened: the axes of the image are {report.straightened:.0f} degrees off those of the patient"
    )


def _written(report: Report) -> list[str]:
    """Return the files and folders with the results of an image."""
    named = (report.labels, report.statistics, report.preview, report.report_html)
    files = [file for file in named if isinstance(file, str)]
    maps = [found for found in (report.masks, report.probability) if isinstance(found, dict) and found]
    return [*files, *(str(Path(next(iter(found.values()))).parent) for found in maps)]


def counts_text(counts: Mapping[Status, int]) -> str:
    """Return the number of cases by status, such as `3 done, 1 failed`."""
    names: dict[Status, str] = {
        "done": "done",
        "skipped": "done by an earlier run",
        "failed": "failed",
        "waiting": "not done",
    }
    return ", ".join(f"{counts[name]} {text}" for name, text in names.items() if counts.get(name))
