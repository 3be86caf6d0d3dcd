"""Accept, run, observe, cancel and remove jobs. The HTTP routes and other programs use this class.

Example::

    with service.incoming() as upload:                    # a private folder on the disk of the service
        (upload.input / "image.nii.gz").write_bytes(...)
        job = service.submit(upload, JobRequest(preview=True), source="input/image.nii.gz")
    job = service.submit_path(Path("study/"), JobRequest(format=("dicom-seg",)), origin={"node": "PACS"})
    service.view(job.id)                                  # state, progress, forecast, report, error
    service.files(job.id)["seg.dcm"]                      # path of a result
    service.cancel(job.id)                                # at the next window
    service.on_end(lambda record: ...)                    # called once per job that ended, in its thread
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from gcis_runtime.serve.admission import check_header
from gcis_runtime.serve.board import Board, killed_problem
from gcis_runtime.serve.engines import Engines
from gcis_runtime.serve.job import JobRecord, JobView
from gcis_runtime.serve.metrics import Metrics
from gcis_runtime.serve.problems import ServeError
from gcis_runtime.serve.queue import JobQueue
from gcis_runtime.serve.request import JobRequest
from gcis_runtime.serve.results import result_files
from gcis_runtime.serve.runner import Runner
from gcis_runtime.serve.settings import Limits
from gcis_runtime.serve.store import INPUT, JobStore
from gcis_runtime.serve.work import outputs_of

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Upload:
    """A folder for the files of a job that is not accepted yet.

    Attributes:
        folder: The folder.
    """

    folder: Path

    @property
    def input(self) -> Path:
        """The folder for the image."""
        return self.folder / INPUT


class JobService:
    """Runs jobs with opened bundles. All methods may be called from any thread.

    Args:
        store: The folder of the jobs, whose lock the caller holds.
        engines: The bundles.
        limits: Limits.
        metrics: Counters; None creates them.
    """

    def __init__(
        self, store: JobStore, engines: Engines, limits: Limits, metrics: Metrics | None = None
    ) -> None:
        self.engines, self.limits = engines, limits
        self.metrics = metrics or Metrics()
        self.queue = JobQueue(limits.queue)
        self._store, self._board = store, Board(store, self.metrics)
        keep = limits.keep_seconds, limits.keep_bytes
        self._runner = Runner(store, self._board, self.queue, engines, keep=keep)
        self.metrics.observe(queued=lambda: len(self.queue), running=self._board.running)

    def recover(self) -> None:
        """Read the jobs of earlier processes, and queue those that did not end.

        A job that ended the process as often as `Limits.attempts` has failed.

        Raises:
            OutputError: The folder cannot be read.
        """
        for record in self._store.load():
            self._board.add(record)
            if record.ended:
                continue
            if record.state == "running" and self._runner.report(record.id) is not None:
                self._board.end(record, "done")
            elif record.cancelled:
                self._board.end(record, "cancelled")
            elif record.attempts >= self.limits.attempts:
                self._board.end(record, "failed", killed_problem(record))
            else:
                self._board.update(msgspec.structs.replace(record, state="queued"), save=False)
                self.queue.put(record.id)

    def start(self) -> None:
        """Start to run jobs; they wait until the engines are open."""
        self._runner.start()

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._runner.stopping.is_set()

    @property
    def ready(self) -> bool:
        """Whether jobs are accepted and every engine is open."""
        return self.engines.ready and not self.stopping

    def stop(self) -> bool:
        """Let running jobs finish for the grace time, and queue the others for the next start.

        Returns:
            Whether every thread has ended; otherwise a library has not returned, and the process must end
            without waiting for it.
        """
        return self._runner.stop(self.limits.grace_seconds)

    def on_end(self, listener: Callable[[JobRecord], None]) -> None:
        """Call a function with the record of each job that ends from now on, in the thread of the job."""
        self._board.listeners.append(listener)

    @contextmanager
    def incoming(self) -> Iterator[Upload]:
        """Create a folder for files; it is removed after the block unless it was submitted."""
        folder = self._store.new_incoming()
        try:
            yield Upload(folder=folder)
        finally:
            self._store.discard(folder)

    def check(self, request: JobRequest) -> str:
        """Check a request without its image, and return the name of its bundle.

        Raises:
            GcisError: The service does not have the bundle or the prompts, or an option is invalid.
        """
        bundle = self.engines.choose(request.bundle, request.prompt)
        request.check(bundle.manifest)
        if isinstance(request.coarse, str):
            self.engines.choose(request.coarse, ())
        return bundle.name

    def submit(
        self,
        upload: Upload,
        request: JobRequest,
        *,
        source: str,
        roi: str | None = None,
        truth: str | None = None,
        key: str | None = None,
        digest: str | None = None,
        origin: dict[str, str] | None = None,
    ) -> JobRecord:
        """Make an upload a job, which survives a crash from then on.

        The header of an image file is checked; see `check_header`.

        Args:
            upload: The files.
            request: What to compute.
            source: Path of the image relative to the folder of the upload: a file, or a folder with DICOM.
            roi: Path of a mask, relative like `source`.
            truth: Path of a true label map, relative like `source`.
            key: Hash of the idempotency key.
            digest: Hash of the submitted content, which is compared if the key is known.
            origin: Data of the caller, which `JobRecord.origin` keeps.

        Returns:
            The job; an earlier one if the key is known.

        Raises:
            GcisError: The request is invalid, or the key belongs to other content.
            OutputError: The disk is full.
        """
        now = time.time()
        record = JobRecord(
            id=upload.folder.name, created=now, updated=now, bundle=self.check(request), request=request,
            source=source, roi=roi, truth=truth, key=key, digest=digest, origin=origin or {},
        )  # fmt: skip
        check_header(
            upload.folder, source, limit=request.run_options().segment.max_memory,
            later=self.queue.retry_after(len(self.queue) + 1) if self._board.running() else None,
        )  # fmt: skip
        with self._board.accepting:
            if self.stopping:
                raise ServeError("the service is stopping", status=503, retry_after=30)
            if key is not None and (known := self._board.by_key(key, digest)) is not None:
                return known
            self._store.accept(upload.folder, record)
            self._board.add(record)
            self.queue.put(record.id)
        self.metrics.accepted()
        _LOG.info("job %s: accepted", record.id)
        return record

    def submit_path(
        self,
        path: Path,
        request: JobRequest,
        *,
        key: str | None = None,
        digest: str | None = None,
        origin: dict[str, str] | None = None,
    ) -> JobRecord:
        """Submit an image that stays where it is; see `submit`."""
        with self.incoming() as upload:
            return self.submit(
                upload, request, source=str(path.resolve()), key=key, digest=digest, origin=origin
            )

    def view(self, job: str) -> JobView:
        """Return a job as clients see it.

        Raises:
            ServeError: There is no such job.
        """
        record = self._board.record(job)
        report = self._runner.report(job) if record.state == "done" else None
        return self._board.view(record, self.files(job), report, position=self.queue.position(job))

    def version(self, job: str) -> int:
        """Return a number that changes whenever the view of a job changes.

        Raises:
            ServeError: There is no such job.
        """
        return self._board.version(job)

    def record(self, job: str) -> JobRecord:
        """Return the record of a job.

        Raises:
            ServeError: There is no such job.
        """
        return self._board.record(job)

    def jobs(self) -> Sequence[JobRecord]:
        """Return the records of all jobs by time of acceptance."""
        return self._board.records()

    def wait(self, job: str, timeout: float | None = None) -> JobRecord:
        """Wait until a job has ended or the time is over, and return its record.

        Raises:
            ServeError: There is no such job.
        """
        return self._board.wait(job, timeout)

    def source(self, job: str) -> Path:
        """Return the path of the image of a job.

        Raises:
            ServeError: There is no such job.
        """
        return self._store.job_folder(job) / self.record(job).source

    def files(self, job: str) -> dict[str, Path]:
        """Return the path of each result of a job, by name.

        Raises:
            ServeError: There is no such job.
        """
        record = self.record(job)
        return result_files(outputs_of(self._store.results(job))) if record.state == "done" else {}

    def cancel(self, job: str) -> JobRecord:
        """Cancel a job: at once if it is queued, at the next window if it runs. Its data are removed.

        Raises:
            ServeError: There is no such job.
        """
        record = self._board.record(job)
        if self.queue.withdraw(job):
            return self._board.end(record, "cancelled")
        self._board.cancel(job)
        return self._board.record(job)

    def remove(self, job: str) -> None:
        """Remove a job that has ended, with its image and results.

        Raises:
            ServeError: There is no such job.
        """
        self._board.record(job)
        self._board.drop(job)
        self._store.remove(job)
        _LOG.info("job %s: removed", job)
