"""Write the record of the GPU script after every row, and print the results."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu_parts.state import Result, State
from benchmarks.gpu_parts.summary import summary
from gcis_runtime.system.memory import peak_memory_bytes

_NOTE = (
    "CUDA events after a warm-up, medians, a different random input per call; clocks unchanged. Weights are "
    "random, with four values per tensor: the rows give times, not accuracy; parity is measured on the "
    "conformance cases"
)
OUT_OF_TIME = "the time of the run ended during this row"


class Report:
    """Record of a run, complete up to the last row whenever the process ends.

    Args:
        folder: Folder of the record.
        state: Results.
        names: Every row of the run, in order.
        facts: Machine and settings of the run.
    """

    def __init__(self, folder: Path, state: State, names: Sequence[str], facts: dict[str, Any]) -> None:
        self._folder, self._state, self._names, self._facts = folder, state, tuple(names), facts

    @property
    def results(self) -> dict[str, Result]:
        """Results of the measured rows, and of the row that is running."""
        running = self._state.running
        return dict(self._state.results) | ({} if running is None else {running: {"failed": OUT_OF_TIME}})

    @property
    def left(self) -> list[str]:
        """Rows that were not started."""
        return [name for name in self._names if name not in self.results]

    @property
    def wrong(self) -> list[str]:
        """Rows whose parity fails."""
        return [name for name, result in self.results.items() if result.get("ok") is False]

    def write(self) -> Path:
        """Write the record and return its path."""
        from gcis_runtime.latency.record_file import hardware  # noqa: PLC0415
        from gcis_runtime.system.atomic_files import replacing  # noqa: PLC0415

        record = self._facts | {
            "no_time_left": self.left,
            "host_peak_mb": round((peak_memory_bytes() or 0) / 1e6),
            "note": _NOTE,
            "rows": self.results,
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        name = f"{record['what']}_{hardware(record)}_{datetime.date.today():%Y%m%d}.json"
        with replacing(self._folder / name) as temporary:
            temporary.write_text(json.dumps(record, indent=2) + "\n")
        return self._folder / name

    def lines(self) -> list[str]:
        """Return one line per row, the rows without time, and the table of what was measured."""
        lines = ["", "results"]
        lines += [f"  {short(result):40}  {name}" for name, result in self.results.items()]
        lines += [f"  {'no time left':40}  {name}" for name in self.left]
        shown = summary(self.results)
        return [*lines, "", *shown.splitlines()] if shown else lines


def short(result: Result) -> str:
    """Return the main numbers of a row as text."""
    for key in ("not_run", "failed"):
        if key in result:
            return f"{key.replace('_', ' ')}: {result[key]}"
    parts = [] if "ok" not in result else ["ok" if result["ok"] else "WRONG"]
    for key, form in (
        ("max_difference", "difference {:.1e}"),
        ("labels_equal", "labels {:.4%}"),
        ("ms_per_window", "{:.2f} ms per window"),
        ("gflops", "{:.0f} GFLOP/s"),
        ("seconds", "{:.2f} s"),
        ("steps_per_second", "{:.2f} steps/s"),
        ("gpu_peak_mb", "{} MB"),
        ("exit_codes", "exit codes {}"),
    ):
        if key in result:
            parts.append(form.format(result[key]))
    return ", ".join(parts) or "done"
