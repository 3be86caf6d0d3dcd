"""`summary.json` and `summary.csv` of many cases, written anew after each: whole at any moment."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gcis_runtime.errors import OutputError
from gcis_runtime.pipeline.result import write_report
from gcis_runtime.pipeline.segmenter import Segmenter
from gcis_runtime.runs import statistics
from gcis_runtime.runs.outputs import Job
from gcis_runtime.system.memory import peak_memory_bytes

JSON, CSV, STATISTICS = "summary.json", "summary.csv", "statistics.csv"
SCHEMA = 1
_STAGES = ("read", "preprocess", "network", "blend", "restore", "write")


class Summary:
    """How far a run over many cases is. The files are written when it is made, and after every case.

    Args:
        folder: Where the files go.
        segmenter: What computes.
        jobs: All cases, in order.
        with_statistics: Write `statistics.csv` too: a row for every structure of every case.

    Raises:
        OutputError: The files cannot be written.
    """

    def __init__(
        self, folder: Path, segmenter: Segmenter, jobs: Sequence[Job], *, with_statistics: bool = False
    ) -> None:
        self._folder, self._with_statistics = folder, with_statistics
        self._started = _now()
        self._cases: dict[str, dict[str, Any]] = {
            job.name: {"case": job.name, "image": str(job.image), "status": "waiting"} for job in jobs
        }
        self._bundle = {"name": segmenter.bundle.name, "sha256": segmenter.bundle.sha256}
        self._engine = segmenter.engine.text
        labels = segmenter.bundle.manifest.labels
        self._names = {labels[c].value: labels[c].name for c in segmenter.channels}
        self._rows: dict[str, list[list[Any]]] = {}
        self.write()

    @property
    def path(self) -> Path:
        """The CSV file."""
        return self._folder / CSV

    @property
    def counts(self) -> Counter[str]:
        """Cases by status: `done`, `skipped` (done by an earlier run), `failed`, `waiting`."""
        return Counter(case["status"] for case in self._cases.values())

    def finished(
        self, job: Job, report: dict[str, Any], *, skipped: bool = False, write: bool = True
    ) -> None:
        """Note a case's report.

        Args:
            job: The case.
            report: Its report.
            skipped: It is an earlier run's.
            write: Write the files now.
        """
        self._cases[job.name] |= {
            "status": "skipped" if skipped else "done",
            "labels": report["labels"],
            "volumes_ml": {str(s["value"]): s["volume_ml"] for s in report["structures"]},
            "seconds": report["seconds"],
            "windows": report["windows"],
            "warnings": report["warnings"],
            "steps": report.get("steps", []),
        }
        if self._with_statistics:
            self._rows[job.name] = statistics.csv_rows(job.name, report["structures"])
        if write:
            self.write()

    def failed(self, job: Job, error: str) -> None:
        """Note why a case failed."""
        self._cases[job.name] |= {"status": "failed", "error": error}
        self.write()

    def write(self) -> None:
        """Write the files, each whole or not at all.

        Raises:
            OutputError: They cannot be written.
        """
        document = {
            "schema": SCHEMA,
            "bundle": self._bundle,
            "engine": self._engine,
            "started": self._started,
            "updated": _now(),
            "counts": {name: self.counts[name] for name in ("done", "skipped", "failed", "waiting")},
            "structures": [{"value": v, "name": n} for v, n in self._names.items()],
            "peak_memory_bytes": peak_memory_bytes(),
            "cases": list(self._cases.values()),
        }
        write_report(self._folder / JSON, document)
        statistics.write_csv(self.path, [self._header(), *map(self._row, self._cases.values())])
        if self._with_statistics:
            rows = [row for name in self._cases for row in self._rows.get(name, ())]
            statistics.write_csv(self._folder / STATISTICS, [statistics.COLUMNS, *rows])

    def _header(self) -> list[str]:
        seconds = [f"{stage}_s" for stage in (*_STAGES, "other", "total")]
        return [
            "case", "image", "status", "labels", "error", "warnings",
            *(f"{name} mL" for name in self._names.values()), *seconds,
        ]  # fmt: skip

    def _row(self, case: dict[str, Any]) -> list[Any]:
        volumes, seconds = case.get("volumes_ml", {}), case.get("seconds", {})
        times: list[Any] = [seconds.get(stage, "") for stage in _STAGES]
        if seconds:
            total = sum(seconds.values())
            times += [round(total - sum(seconds.get(s, 0) for s in _STAGES), 4), round(total, 4)]
        else:
            times += ["", ""]
        return [
            *(case.get(name, "") for name in ("case", "image", "status", "labels", "error")),
            "; ".join((*case.get("steps", ()), *case.get("warnings", ()))),
            *(volumes.get(str(value), "") for value in self._names),
            *times,
        ]


def refuse_own(arguments: Sequence[Path], folder: Path) -> None:
    """Refuse a list that the run would replace by its summary.

    Raises:
        OutputError: One of the arguments is such a file in `folder`.
    """
    ours = {os.path.realpath(folder / name) for name in (CSV, STATISTICS)}
    for argument in arguments:
        if os.path.realpath(argument) in ours:
            raise OutputError(
                f"{argument} would be replaced by this run's own",
                fix="Rename the list, or choose another -o.",
            )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
