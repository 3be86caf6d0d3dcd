"""Count what the service does, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from gcis_runtime.system.memory import resident_bytes

if TYPE_CHECKING:
    from gcis_runtime.pipeline.report import Report

_METHODS = ("GET", "HEAD", "POST", "DELETE", "OPTIONS", "PUT")
_SECONDS = (0.5, 1, 2, 5, 10, 20, 60, 120, 300, 600, 1800)


class Metrics:
    """Counters in a registry of their own. No value identifies an image or a patient."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        add: dict[str, Any] = {"registry": self._registry}
        self._accepted = Counter("gcis_jobs_accepted", "Jobs that were accepted", **add)
        self._ended = Counter("gcis_jobs_ended", "Jobs that ended", ["state"], **add)
        self._refused = Counter("gcis_refused", "Requests that were refused", ["status"], **add)
        self._requests = Counter("gcis_http_requests", "Answered requests", ["method", "status"], **add)
        self._windows = Counter("gcis_windows", "Windows that were computed", **add)
        self._received = Counter("gcis_received_bytes", "Bytes of bodies that were received", **add)
        self._job = Histogram(
            "gcis_job_seconds", "Seconds from start to end of jobs that are done", buckets=_SECONDS, **add
        )
        self._stage = Histogram("gcis_stage_seconds", "Seconds per stage", ["stage"], buckets=_SECONDS, **add)
        Gauge("gcis_resident_bytes", "Resident memory of the process", **add).set_function(
            lambda: float(resident_bytes() or 0)
        )
        self.uploads = Gauge("gcis_uploads", "Uploads in progress", **add)
        self._queued = Gauge("gcis_jobs_queued", "Jobs that are queued", **add)
        self._running = Gauge("gcis_jobs_running", "Jobs that run", **add)

    def observe(self, *, queued: Callable[[], int], running: Callable[[], int]) -> None:
        """Read the numbers of queued and running jobs from functions."""
        self._queued.set_function(lambda: float(queued()))
        self._running.set_function(lambda: float(running()))

    def accepted(self) -> None:
        """Count an accepted job."""
        self._accepted.inc()

    def ended(self, state: str) -> None:
        """Count a job that ended."""
        self._ended.labels(state).inc()

    def answered(self, method: str, status: int) -> None:
        """Count an answer. Clients may send any word as method, and each label takes memory."""
        self._requests.labels(method if method in _METHODS else "other", str(status)).inc()
        if status in (413, 429, 503):
            self._refused.labels(str(status)).inc()

    def received(self, size: int) -> None:
        """Count received bytes."""
        self._received.inc(size)

    def finished(self, report: Report | None, seconds: float) -> None:
        """Record the times and windows of a job that is done."""
        self._job.observe(seconds)
        if report is not None:
            self._windows.inc(report.windows.total)
            for stage, value in report.seconds.items():
                self._stage.labels(stage).observe(value)

    def text(self) -> bytes:
        """Return all values in the text format of Prometheus."""
        return generate_latest(self._registry)
