"""Write `summary.json` and `summary.csv` of a run over many images; each write replaces complete files.

`docs/schema/summary.v1.schema.json` is the JSON Schema of the former.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from gcis_runtime.errors import OutputError
from gcis_runtime.pipeline.identity import Identity
from gcis_runtime.pipeline.report import Report
from gcis_runtime.pipeline.report_parts import BundleReport, WindowsReport
from gcis_runtime.runs import statistics
from gcis_runtime.runs.outputs import Job
from gcis_runtime.system.json_files import write_json
from gcis_runtime.system.memory import peak_memory_bytes

JSON, CSV, STATISTICS = "summary.json", "summary.csv", "statistics.csv"
SUMMARY_VERSION: Final = 1
_STAGES = ("read", "preprocess", "network", "blend", "restore", "write")

Status = Literal["done", "skipped", "failed", "waiting"]
"""`"skipped"`: finished by an earlier run. `"waiting"`: not finished yet."""


class NamedStructure(msgspec.Struct, frozen=True, kw_only=True):
    """Label value and name of a structure."""

    value: int
    name: str


class CaseSummary(msgspec.Struct, frozen=True, kw_only=True):
    """One case. Fields after `status` are unset until it is finished or has failed.

    Attributes:
        case: Name of the case.
        image: Path of the image.
        status: Status.
        labels: Path of the label map.
        volumes_ml: Volume of each structure in mL, by label value.
        seconds: Seconds per stage.
        windows: Numbers of windows.
        warnings: Warnings about the image or the run.
        steps: One line per step that was taken for lack of memory.
        error: Error message.
    """

    case: str
    image: str
    status: Status
    labels: str | UnsetType = UNSET
    volumes_ml: dict[str, float] | UnsetType = UNSET
    seconds: dict[str, float] | UnsetType = UNSET
    windows: WindowsReport | UnsetType = UNSET
    warnings: list[str] | UnsetType = UNSET
    steps: list[str] | UnsetType = UNSET
    error: str | UnsetType = UNSET


class SummaryDocument(msgspec.Struct, frozen=True, kw_only=True):
    """The content of `summary.json`.

    Attributes:
        schema: Version of this format.
        bundle: The bundle.
        engine: Description of the engine.
        started: Start of the run, ISO 8601 with time zone.
        updated: Time of the last update.
        counts: Number of cases by status.
        structures: Structures that are segmented.
        peak_memory_bytes: Peak resident memory of the process so far; None if unknown.
        cases: All cases, in order.
    """

    schema: Literal[1] = SUMMARY_VERSION
    bundle: BundleReport
    engine: str
    started: str
    updated: str
    counts: dict[Status, int]
    structures: list[NamedStructure]
    peak_memory_bytes: int | None
    cases: list[CaseSummary]


class Summary:
    """The progress of a run over many images. The files are written on creation and after every case.

    Args:
        folder: Folder of the files.
        identity: What computes.
        jobs: All cases, in order.
        with_statistics: Also write `statistics.csv`, with one row per structure and case.

    Attributes:
        folder: Folder of the files.
        reports: Reports of the finished cases, by case.
        on_write: Called after each write.

    Raises:
        OutputError: A file cannot be written.
    """

    def __init__(
        self, folder: Path, identity: Identity, jobs: Sequence[Job], *, with_statistics: bool = False
    ) -> None:
        self.folder, self._with_statistics = folder, with_statistics
        self.reports: dict[str, Report] = {}
        self.on_write: Callable[[], None] | None = None
        self._started = _now()
        self._cases = {
            job.name: CaseSummary(case=job.name, image=str(job.image), status="waiting") for job in jobs
        }
        self._bundle = BundleReport(name=identity.bundle.name, sha256=identity.bundle.sha256)
        self._engine = identity.engine.text
        self._names = {label.value: label.name for label in identity.labels}
        self._rows: dict[str, list[list[Any]]] = {}
        self.write()

    @property
    def path(self) -> Path:
        """Path of the CSV file."""
        return self.folder / CSV

    @property
    def counts(self) -> Counter[Status]:
        """Number of cases by status."""
        return Counter(case.status for case in self._cases.values())

    def finished(self, job: Job, report: Report, *, skipped: bool = False, write: bool = True) -> None:
        """Record the report of a case.

        Args:
            job: The case.
            report: Its report.
            skipped: Whether an earlier run wrote the report.
            write: Whether to write the files now.
        """
        self.reports[job.name] = report
        self._cases[job.name] = CaseSummary(
            case=job.name,
            image=str(job.image),
            status="skipped" if skipped else "done",
            labels=report.labels,
            volumes_ml={str(s.value): s.volume_ml for s in report.structures},
            seconds=report.seconds,
            windows=report.windows,
            warnings=report.warnings,
            steps=report.steps,
        )
        if self._with_statistics:
            self._rows[job.name] = statistics.csv_rows(job.name, report.structures)
        if write:
            self.write()

    def failed(self, job: Job, error: str) -> None:
        """Record the error of a case."""
        self._cases[job.name] = CaseSummary(case=job.name, image=str(job.image), status="failed", error=error)
        self.write()

    def document(self) -> SummaryDocument:
        """Return the content of `summary.json` as of now."""
        statuses: tuple[Status, ...] = ("done", "skipped", "failed", "waiting")
        counts = self.counts
        return SummaryDocument(
            bundle=self._bundle,
            engine=self._engine,
            started=self._started,
            updated=_now(),
            counts={status: counts[status] for status in statuses},
            structures=[NamedStructure(value=v, name=n) for v, n in self._names.items()],
            peak_memory_bytes=peak_memory_bytes(),
            cases=list(self._cases.values()),
        )

    def write(self) -> None:
        """Write the files, each completely or not at all.

        Raises:
            OutputError: A file cannot be written.
        """
        write_json(self.folder / JSON, self.document())
        statistics.write_csv(self.path, [self._header(), *map(self._row, self._cases.values())])
        if self._with_statistics:
            rows = [row for name in self._cases for row in self._rows.get(name, ())]
            statistics.write_csv(self.folder / STATISTICS, [statistics.COLUMNS, *rows])
        if self.on_write is not None:
            self.on_write()

    def _header(self) -> list[str]:
        seconds = [f"{stage}_s" for stage in (*_STAGES, "other", "total")]
        return [
            "case", "image", "status", "labels", "error", "warnings",
            *(f"{name} mL" for name in self._names.values()), *seconds,
        ]  # fmt: skip

    def _row(self, case: CaseSummary) -> list[Any]:
        volumes: Mapping[str, float] = case.volumes_ml or {}
        seconds: Mapping[str, float] = case.seconds or {}
        times: list[Any] = [seconds.get(stage, "") for stage in _STAGES]
        if seconds:
            total = sum(seconds.values())
            times += [round(total - sum(seconds.get(s, 0) for s in _STAGES), 4), round(total, 4)]
        else:
            times += ["", ""]
        return [
            case.case, case.image, case.status, case.labels or "", case.error or "",
            "; ".join((*(case.steps or ()), *(case.warnings or ()))),
            *(volumes.get(str(value), "") for value in self._names),
            *times,
        ]  # fmt: skip


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of `summary.json`, generated from the types that write it."""
    title = f"summary.json of gcis-run over many images, version {SUMMARY_VERSION}"
    made = msgspec.json.schema(SummaryDocument)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title} | made


def refuse_own(arguments: Sequence[Path], folder: Path) -> None:
    """Raise an error for a list of images that the summary of the run would replace.

    Raises:
        OutputError: One of the arguments is a summary file in `folder`.
    """
    ours = {os.path.realpath(folder / name) for name in (CSV, STATISTICS)}
    for argument in arguments:
        if os.path.realpath(argument) in ours:
            raise OutputError(
                f"{argument} would be replaced by the summary of this run",
                fix="Rename the list, or choose another -o.",
            )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
