"""Accept, run, observe, cancel and remove jobs. The HTTP routes and other programs use this class.

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
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec

from gcis_runtime.errors import EngineError, GcisError, MemoryLimitError
from gcis_runtime.images.files import check_plausible
from gcis_runtime.images.suffixes import suffix_of
from gcis_runtime.pipeline.memory_limit import check_image
from gcis_runtime.pipeline.report import Report
from gcis_runtime.runs.outcome import EXPECTED
from gcis_runtime.serve.board import Board
from gcis_runtime.serve.engines import Engines
from gcis_runtime.serve.job import JobRecord, JobView, State
from gcis_runtime.serve.metrics import Metrics
from gcis_runtime.serve.problems import Problem, ServeError, problem_of, refusal_of
from gcis_runtime.serve.queue import JobQueue
from gcis_runtime.serve.request import JobRequest
from gcis_runtime.serve.results import result_files
from gcis_runtime.serve.settings import Limits
from gcis_runtime.serve.store import INPUT, JobStore
from gcis_runtime.serve.work import CancelledJobError, Follower, Room, outputs_of, run_job
from gcis_runtime.system.records import read_record

_LOG = logging.getLogger(__name__)
_WORKERS = 2
"""One job computes while another one is read or written."""
_PAUSE = 5.0
"""Seconds between two checks of retention and engines."""
_OVERTIME = 5.0
"""Seconds after the grace time within which running jobs notice that they shall stop."""


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
        self._store = store
        self._board = Board(store)
        self._room = Room()
        self._listeners: list[Callable[[JobRecord], None]] = []
        self._stopping = threading.Event()
        self._threads: list[threading.Thread] = []
        self.metrics.observe(queued=lambda: len(self.queue), running=self._board.running)

    # -- life ----------------------------------------------------------------------------------------------

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
            if record.state == "running" and self._report(record.id) is not None:
                self._end(record, "done")
            elif record.attempts >= self.limits.attempts:
                self._end(record, "failed", _killed(record))
            else:
                self._board.update(msgspec.structs.replace(record, state="queued"), save=False)
                self.queue.put(record.id)

    def start(self) -> None:
        """Start to run jobs; they wait until the engines are open."""
        for target, name in [(self._work, f"gcis-job-{i}") for i in range(_WORKERS)] + [
            (self._keep_house, "gcis-house")
        ]:
            thread = threading.Thread(target=target, name=name, daemon=True)
            thread.start()
            self._threads.append(thread)

    @property
    def stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._stopping.is_set()

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
        self._stopping.set()
        self.queue.close()
        limit = time.monotonic() + self.limits.grace_seconds
        while self._board.running() and time.monotonic() < limit:
            time.sleep(0.05)
        self._board.interrupt_all()
        for thread in self._threads:
            thread.join(max(0.1, limit + _OVERTIME - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def on_end(self, listener: Callable[[JobRecord], None]) -> None:
        """Call a function with the record of each job that ends from now on, in the thread of the job."""
        self._listeners.append(listener)

    # -- submission ----------------------------------------------------------------------------------------

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

    def check_memory(self, upload: Upload, request: JobRequest, source: str) -> None:
        """Check that the header of an image is valid and its voxels fit into memory, before its job exists.

        DICOM is checked when the job starts.

        Raises:
            ServeError: The header is invalid (status 422), the image is too large (413), or it is too large
                beside the jobs that run now (503).
        """
        path = upload.folder / source
        if path.is_dir() or not suffix_of(path):
            return
        limit = request.run_options().segment.max_memory
        try:
            check_plausible(path)
            check_image(path, limit)
        except MemoryLimitError as error:
            later = limit is None and self._board.running() > 0
            raise refusal_of(
                error, private=_private(upload.folder, source), status=503 if later else 413,
                retry_after=self.queue.retry_after(len(self.queue) + 1) if later else None,
            ) from error  # fmt: skip
        except GcisError as error:
            raise refusal_of(error, private=_private(upload.folder, source)) from error

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
        with self._board.accepting:
            if self.stopping:
                raise ServeError("the service is stopping", status=503, retry_after=30)
            if key is not None and (known := self._board.by_key(key)) is not None:
                if known.digest != digest:
                    raise ServeError(
                        "the idempotency key belongs to another job",
                        status=422,
                        received="the same key with other content",
                        expected="the same content, or a new key",
                    )
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

    # -- observation ---------------------------------------------------------------------------------------

    def view(self, job: str) -> JobView:
        """Return a job as clients see it.

        Raises:
            ServeError: There is no such job.
        """
        record = self._board.record(job)
        names = sorted(self.files(job)) if record.state == "done" else []
        report = self._report(job) if record.state == "done" else None
        return self._board.view(record, names, report, position=self.queue.position(job))

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

    # -- end -----------------------------------------------------------------------------------------------

    def cancel(self, job: str) -> JobRecord:
        """Cancel a job: at once if it is queued, at the next window if it runs. Its data are removed.

        Raises:
            ServeError: There is no such job.
        """
        record = self._board.record(job)
        if self.queue.withdraw(job):
            return self._end(record, "cancelled")
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

    # -- threads -------------------------------------------------------------------------------------------

    def _work(self) -> None:
        while (job := self.queue.take()) is not None:
            while not self.engines.ready and not self._stopping.wait(0.05):
                pass
            if self.stopping:
                self.queue.put(job, first=True)
                return
            with suppress(Exception):  # a full disk must not end the thread; the job stays as it is on disk
                self._run(job)

    def _run(self, job: str) -> None:
        """Run a job that was taken from the queue."""
        record = self._board.record(job)
        started = time.monotonic()
        record = self._board.update(
            msgspec.structs.replace(
                record, state="running", attempts=record.attempts + 1, updated=time.time()
            )
        )
        _LOG.info("job %s: started, attempt %d", job, record.attempts)
        alone = record.request.max_memory is not None
        outcome = self._attempt(record, alone=alone)
        if outcome is None:  # it may fit once no other job is in memory
            outcome = self._attempt(record, alone=True)
        state, error = outcome or ("failed", None)
        if state == "queued":
            self._board.update(msgspec.structs.replace(record, state="queued", attempts=record.attempts - 1))
            _LOG.info("job %s: queued again", job)
            return
        seconds = time.monotonic() - started
        if state == "done":
            self.queue.measured(seconds)
            self.metrics.finished(self._report(job), seconds)
        self._end(record, state, error)

    def _attempt(self, record: JobRecord, *, alone: bool) -> tuple[State, Problem | None] | None:
        """Run a job once; None if it needs more memory than is left beside another job."""
        job, folder = record.id, self._store.job_folder(record.id)
        follower = Follower(
            on_progress=lambda progress: self._board.progress(job, progress),
            on_forecast=lambda forecast: self._board.forecast(job, forecast),
        )
        first = True
        try:
            with self._room.entered(alone=alone) as first:
                run_job(record, folder, self._store.results(job), self.engines, follower)
        except CancelledJobError:
            return ("cancelled" if self._board.cancelled(job) else "queued"), None
        except Exception as error:
            if isinstance(error, MemoryLimitError) and not alone and (not first or self._board.running() > 1):
                return None
            if isinstance(error, EngineError | MemoryError) or not isinstance(error, EXPECTED):
                self._renew(record)
            problem = problem_of(error, private=_private(folder, record.source))
            _LOG.log(
                logging.INFO if isinstance(error, EXPECTED) else logging.ERROR,
                "job %s: %s", job, type(error).__name__,
                exc_info=None if isinstance(error, EXPECTED) else error,
            )  # fmt: skip
            return "failed", problem
        return ("cancelled" if self._board.cancelled(job) else "done"), None

    def _renew(self, record: JobRecord) -> None:
        """Replace the engines of a job that failed in them."""
        with self.engines.turn:
            self.engines.discard(record.request, record.bundle)
        self._open_engines()

    def _open_engines(self) -> None:
        try:
            self.engines.open_all()
        except (GcisError, OSError, MemoryError) as error:
            _LOG.error("an engine cannot be opened: %s", type(error).__name__)

    def _end(self, record: JobRecord, state: State, error: Problem | None = None) -> JobRecord:
        """Record the end of a job, and call the listeners."""
        if state == "cancelled":
            self._store.clear_data(record.id)
        ended = self._board.update(
            msgspec.structs.replace(record, state=state, error=error, updated=time.time())
        )
        self.metrics.ended(state)
        _LOG.info("job %s: %s", record.id, state)
        for listener in self._listeners:
            with suppress(Exception):
                listener(ended)
        return ended

    def _report(self, job: str) -> Report | None:
        return read_record(outputs_of(self._store.results(job)).report, Report).value

    def _keep_house(self) -> None:
        """Remove old jobs, and open engines that could not be opened before."""
        opened = False
        while not self._stopping.wait(_PAUSE):
            opened = opened or self.engines.ready
            if opened and not self.engines.ready:
                self._open_engines()
            with suppress(OSError, GcisError):
                self.expire(time.time())

    def expire(self, now: float) -> None:
        """Remove ended jobs that are too old, and the oldest ones beyond the size limit."""
        ended = [record for record in self._board.records() if record.ended]
        total = 0
        for record in sorted(ended, key=lambda r: r.updated, reverse=True):
            total += self._store.size(record.id)
            if now - record.updated > self.limits.keep_seconds or total > self.limits.keep_bytes:
                with suppress(ServeError):
                    self.remove(record.id)


def _private(folder: Path, source: str) -> tuple[tuple[str, str], ...]:
    """Return the texts that clients must not see, and their replacements."""
    image = (source, "the image") if Path(source).is_absolute() else (source, Path(source).name)
    return ((f"{folder / INPUT}/", ""), (f"{folder}/", ""), (str(folder), "the job"), image)


def _killed(record: JobRecord) -> Problem:
    return problem_of(
        ServeError(
            "the process ended while it ran the job",
            status=500,
            received=f"{record.attempts} attempts",
            fix="Look for the reason in the log of the system: often it is memory. Submit the job again.",
        )
    )
