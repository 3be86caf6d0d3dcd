"""Hold the state of all jobs in memory, in step with their records on disk."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from gcis_runtime.errors import UnwritableError
from gcis_runtime.pipeline.forecast import Forecast
from gcis_runtime.pipeline.report import Report
from gcis_runtime.serve.job import ForecastView, JobProgress, JobRecord, JobView, State
from gcis_runtime.serve.metrics import Metrics
from gcis_runtime.serve.problems import Problem, ServeError, problem_of
from gcis_runtime.serve.results import public_report
from gcis_runtime.serve.store import JobStore
from gcis_runtime.serve.work import CancelledJobError

_LOG = logging.getLogger(__name__)


@dataclass(kw_only=True)
class _Entry:
    """A job in memory.

    Attributes:
        record: Its record, as on disk.
        progress: Its progress while it runs.
        forecast: Its forecast.
        version: Number of changes.
        interrupted: Whether the service stops, so that it shall be queued again.
    """

    record: JobRecord
    progress: JobProgress | None = None
    forecast: ForecastView | None = None
    version: int = 0
    interrupted: bool = False


class Board:
    """The state of all jobs. Its methods may be called from any thread.

    Args:
        store: Where records are saved.
        metrics: Counters.

    Attributes:
        metrics: Counters.
        listeners: Functions that are called with the record of each job that ends.
        accepting: Lock that a caller holds from the check of an idempotency key to `add`.
    """

    def __init__(self, store: JobStore, metrics: Metrics) -> None:
        self._store, self.metrics = store, metrics
        self.listeners: list[Callable[[JobRecord], None]] = []
        self._entries: dict[str, _Entry] = {}
        self._changed = threading.Condition()
        self.accepting = threading.Lock()
        self._saving = threading.Lock()
        self._unsaved: set[str] = set()

    def add(self, record: JobRecord) -> None:
        """Add a job whose record is on disk."""
        with self._changed:
            self._entries[record.id] = _Entry(record=record)

    def drop(self, job: str) -> None:
        """Forget a job."""
        with self._saving, self._changed:
            self._unsaved.discard(job)
            self._entries.pop(job, None)
            self._changed.notify_all()

    def record(self, job: str) -> JobRecord:
        """Return the record of a job.

        Raises:
            ServeError: There is no such job.
        """
        return self._entry(job).record

    def records(self) -> Sequence[JobRecord]:
        """Return all records by time of acceptance."""
        return sorted(self._all(), key=lambda record: record.created)

    def by_key(self, key: str, digest: str | None) -> JobRecord | None:
        """Return the job with an idempotency key; None if there is none.

        Raises:
            ServeError: The job has other content.
        """
        found = next((record for record in self._all() if record.key == key), None)
        if found is not None and found.digest != digest:
            raise ServeError(
                "the idempotency key belongs to another job",
                status=422,
                received="the same key with other content",
                expected="the same content, or a new key",
            )
        return found

    def running(self) -> int:
        """Return the number of running jobs."""
        return sum(record.state == "running" for record in self._all())

    def version(self, job: str) -> int:
        """Return the number of changes of a job."""
        return self._entry(job).version

    def update(self, record: JobRecord, *, save: bool = True) -> JobRecord:
        """Replace the record of a job, on disk first; a removed job stays removed.

        If the disk is full, the record is replaced in memory alone, so that clients see the state, and
        `save_again` writes it later.
        """
        with self._saving:
            entry = self._entries.get(record.id)
            if entry is not None and entry.record.cancelled:  # `record` may be older than the cancellation
                record = msgspec.structs.replace(record, cancelled=True)
            if save and entry is not None:
                self._save(record)
            self._replace(record)
        return record

    def save_again(self) -> None:
        """Write the records that could not be written before."""
        with self._saving:
            for job in sorted(self._unsaved):
                self._save(self._entries[job].record)

    def _save(self, record: JobRecord) -> None:
        try:
            self._store.save(record)
            self._unsaved.discard(record.id)
        except UnwritableError:
            if record.id not in self._unsaved:
                _LOG.error("job %s: its record cannot be written", record.id)
            self._unsaved.add(record.id)

    def _replace(self, record: JobRecord) -> None:
        with self._changed:
            if (entry := self._entries.get(record.id)) is not None:
                entry.record = record
                if record.state != "running":
                    entry.progress = None
                self._step(entry)

    def progress(self, job: str, progress: JobProgress) -> None:
        """Set the progress of a job.

        Raises:
            CancelledJobError: The job was cancelled, or the service stops.
        """
        with self._changed:
            entry = self._followed(job)
            entry.progress = progress
            self._step(entry)

    def forecast(self, job: str, forecast: Forecast) -> None:
        """Set the forecast of a job.

        Raises:
            CancelledJobError: The job was cancelled, or the service stops.
        """
        with self._changed:
            entry = self._followed(job)
            entry.forecast = ForecastView(text=forecast.text, **asdict(forecast))
            self._step(entry)

    def end(self, record: JobRecord, state: State, error: Problem | None = None) -> JobRecord:
        """Record the end of a job, and call the listeners."""
        if state == "cancelled":
            self._store.clear_data(record.id)
        ended = self.update(msgspec.structs.replace(record, state=state, error=error, updated=time.time()))
        self.metrics.ended(state)
        _LOG.info("job %s: %s", record.id, state)
        for listener in self.listeners:
            try:
                listener(ended)
            except Exception as problem:  # the next job must run
                _LOG.error("job %s: a listener failed", record.id, exc_info=problem)
        return ended

    def cancel(self, job: str) -> None:
        """Let a running job notice that it was cancelled. The record keeps this, in case the process dies."""
        with self._saving:
            record = self._entry(job).record
            if not record.ended:
                cancelled = msgspec.structs.replace(record, cancelled=True)
                self._save(cancelled)
                self._replace(cancelled)

    def interrupt_all(self) -> None:
        """Let every running job notice that the service stops."""
        with self._changed:
            for entry in self._entries.values():
                entry.interrupted = True

    def cancelled(self, job: str) -> bool:
        """Return whether a client cancelled a job, or removed it."""
        entry = self._entries.get(job)
        return entry is None or entry.record.cancelled

    def wait(self, job: str, timeout: float | None) -> JobRecord:
        """Wait until a job has ended or the time is over.

        Raises:
            ServeError: There is no such job.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: job not in self._entries or self._entries[job].record.ended, timeout
            )
        return self.record(job)

    def view(
        self,
        record: JobRecord,
        files: Mapping[str, Path],
        report: Report | None,
        *,
        position: int | None,
    ) -> JobView:
        """Return a job as clients see it.

        Args:
            record: The job.
            files: Path of each result by name; empty until it is done.
            report: Its report; None until it is done.
            position: Number of jobs before it; None if it is not queued.
        """
        entry, path = self._entry(record.id), f"/v1/jobs/{record.id}"
        links = {
            "self": path,
            "events": f"{path}/events",
            **{name: f"{path}/{name}" for name in sorted(files)},
        }
        return JobView(
            id=record.id, state=record.state, created=_time(record.created), updated=_time(record.updated),
            bundle=record.bundle, request=record.request,
            links=links,
            attempts=record.attempts, position=position if record.state == "queued" else None,
            progress=entry.progress if record.state == "running" else None, forecast=entry.forecast,
            report=None if report is None else public_report(report, files), error=record.error,
        )  # fmt: skip

    def _all(self) -> list[JobRecord]:
        with self._changed:
            return [entry.record for entry in self._entries.values()]

    def _entry(self, job: str) -> _Entry:
        entry = self._entries.get(job)
        if entry is None:
            raise ServeError(
                "there is no such job",
                status=404,
                expected="the id of a job that was not removed",
                fix="Ended jobs are removed after the time and beyond the size that the operator set.",
            )
        return entry

    def _followed(self, job: str) -> _Entry:
        entry = self._entries.get(job)
        if entry is None or entry.record.cancelled or entry.interrupted:
            raise CancelledJobError
        return entry

    def _step(self, entry: _Entry) -> None:
        entry.version += 1
        self._changed.notify_all()


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def killed_problem(record: JobRecord) -> Problem:
    """Return the problem of a job that ended the process too often."""
    return problem_of(
        ServeError(
            "the process ended while it ran the job",
            status=500,
            received=f"{record.attempts} attempts",
            fix="Look for the reason in the log of the system: often it is memory. Submit the job again.",
        )
    )
