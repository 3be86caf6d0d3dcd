"""Summarise the rows of the GPU script in one table."""

from __future__ import annotations

import re
from collections.abc import Mapping

from benchmarks.gpu_parts.state import Result
from gcis_runtime.text import table

_Cells = tuple[str, ...]
_HEADER = ("measurement", "way", "result", "GFLOP/s", "of ceiling", "to published")
_WINDOW = re.compile(r"ladder/(window \S+, batch \d+)/(.*)")
_WHOLE = re.compile(r"whole/(\S+ mm)/(.*)")
_TRAINING = re.compile(r"training/(window \S+)/(.*)")
_DEFAULTS = "published, all pathways, eager, PyTorch's defaults"
"""Rows to which others are compared: float32 as PyTorch runs it without further settings."""


def summary(results: Mapping[str, Result]) -> str:
    """Return the table of windows, end-to-end times and training steps; empty if nothing was measured.

    `of ceiling` is the share of the GFLOP/s of a matrix product in the same precision and run. `to published`
    is the speed relative to the published method in the same run.

    Args:
        results: Results by name of the row; rows that were not measured are left out.
    """
    measured = {name: row for name, row in results.items() if not {"not_run", "failed"} & row.keys()}
    rows = [*_windows(measured), *_whole(measured), *_training(measured)]
    return table([_HEADER, *rows], right=(2, 3, 4, 5)) if rows else ""


def _windows(results: Mapping[str, Result]) -> list[_Cells]:
    rows: list[_Cells] = []
    for window, way, row in _matching(_WINDOW, results):
        ceiling = results.get(f"ladder/matrix product/{_precision(way)}", {}).get("gflops")
        speed = row.get("gflops")
        reference = _reference(results, f"ladder/{window}/")
        rows.append(
            (
                window,
                way,
                f"{row['ms_per_window']:.2f} ms",
                "" if speed is None else f"{speed:.0f}",
                "" if speed is None or ceiling is None else f"{speed / ceiling:.0%}",
                _times(reference.get("ms_per_window"), row["ms_per_window"]),
            )
        )
    return rows


def _whole(results: Mapping[str, Result]) -> list[_Cells]:
    published = "published, all pathways, PyTorch's defaults"
    return _relative(results, _WHOLE, "end to end, {}", key="seconds", unit="{:.2f} s", published=published)


def _training(results: Mapping[str, Result]) -> list[_Cells]:
    return _relative(
        results, _TRAINING, "training step, {}", key="median_ms", unit="{:.0f} ms", published="published"
    )


def _relative(
    results: Mapping[str, Result],
    pattern: re.Pattern[str],
    title: str,
    *,
    key: str,
    unit: str,
    published: str,
) -> list[_Cells]:
    """Return rows of one number, next to the speed relative to the published way of the same group."""
    found = _matching(pattern, results)
    references = {group: row[key] for group, way, row in found if way == published}
    return [
        (title.format(group), way, unit.format(row[key]), "", "", _times(references.get(group), row[key]))
        for group, way, row in found
    ]


def _matching(pattern: re.Pattern[str], results: Mapping[str, Result]) -> list[tuple[str, str, Result]]:
    found = ((pattern.fullmatch(name), row) for name, row in results.items())
    return sorted(((m[1], m[2], row) for m, row in found if m is not None), key=lambda item: item[0])


def _reference(results: Mapping[str, Result], prefix: str) -> Result:
    """Return the published way in PyTorch's defaults, or in float32 where these are the same (CPU)."""
    for way in (_DEFAULTS, "published, all pathways, eager fp32"):
        if prefix + way in results:
            return results[prefix + way]
    return {}


def _precision(way: str) -> str:
    """Return the precision in which a way computes its products."""
    if way.endswith("PyTorch's defaults"):
        return "tf32"
    return way.rpartition(" ")[2]


def _times(reference: float | None, value: float) -> str:
    return "" if reference is None else f"{reference / value:.1f} x"
