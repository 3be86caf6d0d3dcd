"""Draw time and memory along each axis of `scale`, with the fitted lines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gcis_runtime.system.atomic_files import replacing

_NAMES = {
    "megavoxels": "volume (million voxels)",
    "windows_computed": "windows",
    "prompts": "prompts",
    "one_over_threads": "1 / threads",
    "threads": "threads",
    "cases": "images per process",
    "workers": "processes side by side",
    "seconds": "seconds, whole process",
    "cases_seconds": "seconds, engine open",
    "cases_per_hour": "images per hour",
    "peak_memory_mb": "peak memory (MB)",
}


def draw(record: dict[str, Any], path: Path) -> None:
    """Draw every fitted line of a record with its measurements, one column per axis.

    Args:
        record: Record of `scale`.
        path: PNG to write.
    """
    from matplotlib.figure import Figure  # noqa: PLC0415 (only needed here)

    axes = list(record["fits"])
    height = max(len(lines) for lines in record["fits"].values())
    figure = Figure(figsize=(3.2 * len(axes), 2.7 * height), layout="constrained", dpi=80)
    places = figure.subplots(height, len(axes), squeeze=False)
    for column, axis in enumerate(axes):
        for place, line in zip(places[:, column], record["fits"][axis], strict=False):
            _panel(place, record["rows"][axis], line)
        for place in places[len(record["fits"][axis]) :, column]:
            place.set_axis_off()
        places[0, column].set_title(axis)
    cpu = record["environment"]["cpu"]
    figure.suptitle(
        f"{cpu['model']}, {cpu['usable']} cores, {record['environment']['date'][:10]}", fontsize=9
    )
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png")


def _panel(place: Any, rows: list[dict[str, Any]], line: dict[str, Any]) -> None:
    x, y = ([row[line[name]] for row in rows] for name in "xy")
    place.plot(x, y, "o", color="#0072b2")
    ends = [min(x), max(x)]
    place.plot(ends, [line["intercept"] + line["slope"] * e for e in ends], "-", color="#d55e00", linewidth=1)
    place.set_xlabel(_NAMES[line["x"]], fontsize=8)
    place.set_ylabel(_NAMES[line["y"]], fontsize=8)
    place.text(0.03, 0.97, slope_text(line), transform=place.transAxes, va="top", fontsize=7)
    place.set_ylim(0, 1.25 * max(y))  # space for the text
    place.tick_params(labelsize=7)


def slope_text(line: dict[str, Any]) -> str:
    """Describe a fitted line: intercept, slope, and the exponent of a power law."""
    power = "" if line["exponent"] is None else f", ~ x^{line['exponent']:.2f}"
    return f"{line['intercept']:.4g} {'+' if line['slope'] >= 0 else '-'} {abs(line['slope']):.4g} x{power}"
