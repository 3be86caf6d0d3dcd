"""Build a row of the comparison: medians over turns, ratios to the published way, agreement of labels."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np
import numpy.typing as npt

from gcis_runtime.latency.agreement import agreement, mean_dice


def ladder_row(
    name: str,
    done: dict[str, list[dict[str, Any]]],
    labels: dict[str, npt.NDArray[Any]],
    truth: npt.NDArray[Any] | None,
) -> dict[str, Any]:
    """Return the row of a way, ready for JSON.

    Args:
        name: Name of the way.
        done: Measurements of every way, one per turn.
        labels: Label map of every way, (X, Y, Z).
        truth: True label map, (X, Y, Z); None if unknown.
    """
    runs = done[name]
    row: dict[str, Any] = {
        key: round(statistics.median(run[key] for run in runs), 3)
        for key in (
            "whole_seconds",
            "cpu_seconds",
            "start_seconds",
            "text_seconds",
            "network_seconds",
            "other_seconds",
        )
        if runs[0].get(key) is not None
    }
    row["whole_seconds_all"] = [run["whole_seconds"] for run in runs]
    row["seconds_per_window"] = round(row["network_seconds"] / runs[0]["windows_computed"], 4)
    row |= {key: runs[0][key] for key in ("windows", "windows_computed")}
    row["peak_memory_mb"] = max((run["peak_memory_mb"] or 0 for run in runs), default=0) or None
    if "first_start_seconds" in runs[0]:
        row["first_start_seconds"] = runs[0]["first_start_seconds"]
    row["times_faster"] = times(done.get("published", []), runs, "whole_seconds")
    row["times_faster_cpu"] = times(done.get("published", []), runs, "cpu_seconds")
    row["times_faster_network"] = times(done.get("published", []), runs, "network_seconds")
    row["agreement"] = {
        against: agreement(labels[name], labels[against])
        for against in ("published", "static")
        if against in labels
    }
    if truth is not None:
        row["dice_truth"] = mean_dice(labels[name], truth)
    return row


def times(slow: list[dict[str, Any]], fast: list[dict[str, Any]], key: str) -> dict[str, float] | None:
    """Return median, least and most of `slow / fast` over all pairs of turns; None without a pair."""
    ratios = [a[key] / b[key] for a in slow for b in fast if a.get(key) and b.get(key)]
    if not ratios:
        return None
    return {
        "median": round(statistics.median(ratios), 2),
        "least": round(min(ratios), 2),
        "most": round(max(ratios), 2),
    }


def numbered(truth: npt.NDArray[Any], values: list[int]) -> npt.NDArray[Any]:
    """Return a label map in which `values` are renumbered from 1 in their order; other labels become 0."""
    counted = np.zeros_like(truth)
    for number, value in enumerate(values, start=1):
        counted[truth == value] = number
    return counted
