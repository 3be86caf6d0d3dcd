"""Record the outcomes of a run, and write its summary after each; each write replaces complete files."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from msgspec import UNSET, UnsetType

from gcis_runtime.errors import OutputError
from gcis_runtime.pipeline.identity import Identity
from gcis_runtime.pipeline.report import Report
from gcis_runtime.pipeline.report_parts import BundleReport
from gcis_runtime.runs import statistics
from gcis_runtime.runs.outcome import CaseError, Outcome, RunResult
from gcis_runtime.runs.outputs import Job
from gcis_runtime.runs.shard import Shard
from gcis_runtime.runs.summary_document import (
    CaseSummary,
    NamedStructure,
    ShardSummary,
    Status,
    SummaryDocument,
    SummaryFiles,
    count_statuses,
)
from gcis_runtime.system.memory import peak_memory_bytes

_OWN_TABLE = re.compile(r"(summary|statistics)(\.shard-\d+-of-\d+)?\.csv")


class Summary:
    """The progress of a run over many images. The files are written on creation and after every case.

    Args:
        folder: Folder of the files.
        identity: What computes.
        jobs: All cases, in order.
        with_statistics: Also write `statistics.csv`, with one row per structure and case.
        shard: The part of the run, which is also part of the names of the files; None for the whole run.

    Attributes:
        reports: Reports of the finished cases, by case.
        on_write: Called after each write.

    Raises:
        OutputError: A file cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        identity: Identity,
        jobs: Sequence[Job],
        *,
        with_statistics: bool = False,
        shard: ShardSummary | None = None,
    ) -> None:
        self._files = SummaryFiles.of(folder, shard)
        self._shard: ShardSummary | UnsetType = UNSET if shard is None else shard
        self._with_statistics = with_statistics
        self.reports: dict[str, Report] = {}
        self.on_write: Callable[[], None] | None = None
        self._started, self._peak = _now(), 0
        self._cases = {job.name: _case(job, "waiting") for job in jobs}
        self._bundle = BundleReport(name=identity.bundle.name, sha256=identity.bundle.sha256)
        self._engine = identity.engine.text
        self._names = {label.value: label.name for label in identity.labels}
        self._rows: dict[str, list[list[Any]]] = {}
        self.write()

    @property
    def path(self) -> Path:
        """Path of the CSV file."""
        return self._files.csv

    @property
    def counts(self) -> dict[Status, int]:
        """Number of cases by status."""
        return count_statuses(self._cases.values())

    def finished(self, job: Job, report: Report, *, skipped: bool = False, write: bool = True) -> None:
        """Record the report of a case.

        Args:
            job: The case.
            report: Its report.
            skipped: Whether an earlier run wrote the report.
            write: Whether to write the files now.
        """
        self.reports[job.name] = report
        self._cases[job.name] = _case(
            job,
            "skipped" if skipped else "done",
            labels=report.labels,
            volumes_ml={str(s.value): s.volume_ml for s in report.structures},
            seconds=report.seconds,
            windows=report.windows,
            warnings=report.warnings,
            steps=report.steps,
        )
        if not skipped:
            self._peak = max(self._peak, report.peak_memory_bytes or 0)
        if self._with_statistics:
            self._rows[job.name] = statistics.csv_rows(job.name, report.structures, uids=job.uids)
        if write:
            self.write()

    def failed(self, job: Job, error: str) -> None:
        """Record the error of a case."""
        self._cases[job.name] = _case(job, "failed", error=error)
        self.write()

    def document(self) -> SummaryDocument:
        """Return the content of `summary.json` as of now."""
        return SummaryDocument(
            bundle=self._bundle,
            engine=self._engine,
            started=self._started,
            updated=_now(),
            counts=self.counts,
            structures=[NamedStructure(value=v, name=n) for v, n in self._names.items()],
            peak_memory_bytes=max(peak_memory_bytes() or 0, self._peak) or None,
            cases=list(self._cases.values()),
            shard=self._shard,
        )

    def write(self) -> None:
        """Write the files, each completely or not at all.

        Raises:
            OutputError: A file cannot be written.
        """
        rows = [row for name in self._cases for row in self._rows.get(name, ())]
        self._files.write(self.document(), rows if self._with_statistics else None)
        if self.on_write is not None:
            self.on_write()


def refuse_own(arguments: Sequence[Path], folder: Path) -> None:
    """Raise an error for a list of images that the summary of the run would replace.

    Raises:
        OutputError: One of the arguments is a summary file in `folder`.
    """
    for argument in arguments:
        parent, name = os.path.split(os.path.realpath(argument))
        if parent == os.path.realpath(folder) and _OWN_TABLE.fullmatch(name):
            raise OutputError(
                f"{argument} would be replaced by the summary of this run",
                fix="Rename the list, or choose another -o.",
            )


def _case(job: Job, status: Status, **values: Any) -> CaseSummary:
    """Return the summary of a case, with the UIDs of a DICOM series."""
    if job.series is not None:
        values["study_uid"], values["series_uid"] = job.uids
    return CaseSummary(case=job.name, image=str(job.image), status=status, **values)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def shard_summary(shard: Shard, jobs: Sequence[Job]) -> ShardSummary:
    """Return what the summary of a shard records about the whole run.

    Args:
        shard: The shard.
        jobs: The cases of all shards, in order.
    """
    listed = "\n".join(f"{job.name}\t{job.image}" for job in jobs)
    digest = hashlib.sha256(listed.encode()).hexdigest()
    return ShardSummary(number=shard.number, count=shard.count, images=len(jobs), list_sha256=digest)


class Recorder:
    """Collects outcomes, and passes them to the summary and to a callback.

    Args:
        summary: The summary; None for a single image without one.
        on_done: Called with each outcome; None if nothing else follows the run.
        several: Whether the run has several images, so that errors name theirs.
    """

    def __init__(
        self, summary: Summary | None, on_done: Callable[[Outcome], None] | None, *, several: bool
    ) -> None:
        self._summary, self._callback, self._several = summary, on_done, several
        self._reports: dict[str, Report] = {}
        self._errors: dict[str, CaseError] = {}

    def on_done(self, outcome: Outcome) -> None:
        """Record an outcome."""
        if outcome.report is not None:
            self._reports[outcome.job.name] = outcome.report
            if self._summary is not None:
                self._summary.finished(outcome.job, outcome.report)
            self._call(outcome)
            return
        line = outcome.message(several=self._several)
        self._errors[outcome.job.name] = CaseError(image=outcome.job.image, error=line)
        self._call(outcome)
        if self._summary is not None:
            self._summary.failed(outcome.job, line)

    def result(self, jobs: Sequence[Job], skipped: Mapping[str, Report]) -> RunResult:
        """Return the result, in the order of the jobs."""
        summary = self._summary
        names = [job.name for job in jobs]
        return RunResult(
            reports=tuple(self._reports[name] for name in names if name in self._reports),
            errors=tuple(self._errors[name] for name in names if name in self._errors),
            skipped=tuple(skipped.values()),
            summary=None if summary is None else summary.document(),
            summary_file=None if summary is None else summary.path,
        )

    def _call(self, outcome: Outcome) -> None:
        if self._callback is not None:
            self._callback(outcome)
