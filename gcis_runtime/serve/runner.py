"""Run queued jobs in threads, and keep the engines and the folder in order."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress

import msgspec

from gcis_runtime.errors import EngineError, GcisError, MemoryLimitError
from gcis_runtime.pipeline.report import Report
from gcis_runtime.runs.outcome import EXPECTED
from gcis_runtime.serve.board import Board
from gcis_runtime.serve.engines import Engines
from gcis_runtime.serve.job import JobRecord, State
from gcis_runtime.serve.problems import Problem, ServeError, problem_of
from gcis_runtime.serve.queue import JobQueue
from gcis_runtime.serve.store import JobStore, private_texts
from gcis_runtime.serve.work import CancelledJobError, Follower, Room, outputs_of, run_job
from gcis_runtime.system.records import read_record

_LOG = logging.getLogger(__name__)
_WORKERS = 2
"""One job computes while another one is read or written."""
_PAUSE = 5.0
"""Seconds between two checks of the engines and the folder."""
_OVERTIME = 5.0
"""Seconds after the grace time within which running jobs notice that they shall stop."""

_Outcome = tuple[State, Problem | None]


class Runner:
    """Runs jobs with opened bundles.

    Args:
        store: The folder of the jobs.
        board: The state of the jobs.
        queue: The queued jobs.
        engines: The bundles.
        keep: Seconds and bytes of ended jobs that are kept.
    """

    def __init__(
        self, store: JobStore, board: Board, queue: JobQueue, engines: Engines, *, keep: tuple[float, int]
    ) -> None:
        self._store, self._board, self._queue, self._engines = store, board, queue, engines
        self._keep = keep
        self._room = Room()
        self._threads: list[threading.Thread] = []
        self._opened = False
        self._sizes: dict[str, int] = {}  # bytes of ended jobs, which do not change any more
        self.stopping = threading.Event()

    def start(self) -> None:
        """Start to run jobs; they wait until the engines are open."""
        for target in (*(self._work for _ in range(_WORKERS)), self._keep_house):
            thread = threading.Thread(target=target, name=f"gcis-{len(self._threads)}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self, grace_seconds: float) -> bool:
        """Let running jobs finish for the grace time, and queue the others for the next start.

        Returns:
            Whether every thread has ended; otherwise a library has not returned, and the process must end
            without waiting for it.
        """
        self.stopping.set()
        self._queue.close()
        limit = time.monotonic() + grace_seconds
        while self._board.running() and time.monotonic() < limit:
            time.sleep(0.05)
        self._board.interrupt_all()
        for thread in self._threads:
            thread.join(max(0.1, limit + _OVERTIME - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    def report(self, job: str) -> Report | None:
        """Return the report of a job; None if it has none."""
        return read_record(outputs_of(self._store.results(job)).report, Report).value

    def expire(self, now: float) -> None:
        """Remove ended jobs that are too old, and the oldest ones beyond the size limit."""
        seconds, size = self._keep
        ended = [record for record in self._board.records() if record.ended]
        self._sizes = {r.id: self._sizes.get(r.id) or self._store.size(r.id) for r in ended}
        total = 0
        for record in sorted(ended, key=lambda r: r.updated, reverse=True):
            total += self._sizes[record.id]
            if now - record.updated > seconds or total > size:
                self._board.drop(record.id)
                self._store.remove(record.id)
                _LOG.info("job %s: expired", record.id)

    def _work(self) -> None:
        while (job := self._queue.take()) is not None:
            while not self._engines.ready and not self.stopping.wait(0.05):
                pass
            try:
                self._run(self._board.record(job))
            except ServeError:
                _LOG.info("job %s: removed before its end", job)
            except Exception as error:
                _LOG.error("job %s: %s", job, type(error).__name__, exc_info=error)
                with suppress(ServeError):
                    self._board.end(self._board.record(job), "failed", problem_of(error))

    def _run(self, record: JobRecord) -> None:
        """Run a job that was taken from the queue.

        A job that did not end in an earlier process runs alone: if it ends this process too, no other job is
        blamed for it.
        """
        alone = record.request.max_memory is not None or record.attempts > 0
        started = time.monotonic()
        outcome = self._attempt(record, alone=alone)
        if outcome is None:
            outcome = self._attempt(record, alone=True)
        state, error = outcome or ("failed", None)
        current = self._board.record(record.id)
        if state == "queued":
            self._board.update(msgspec.structs.replace(current, state="queued", attempts=record.attempts))
            _LOG.info("job %s: queued again", record.id)
            return
        if state == "done":
            seconds = time.monotonic() - started
            self._queue.measured(seconds)
            self._board.metrics.finished(self.report(record.id), seconds)
        self._board.end(current, state, error)

    def _attempt(self, record: JobRecord, *, alone: bool) -> _Outcome | None:
        """Run a job once; None if it needs more memory than is left beside another job."""
        job, folder = record.id, self._store.job_folder(record.id)
        follower = Follower(
            on_progress=lambda progress: self._board.progress(job, progress),
            on_forecast=lambda forecast: self._board.forecast(job, forecast),
        )
        with self._room.entered(alone=alone) as first:
            if self.stopping.is_set():
                return ("cancelled" if self._board.cancelled(job) else "queued"), None
            now = time.time()
            started = msgspec.structs.replace(
                record, state="running", attempts=record.attempts + 1, updated=now
            )
            self._board.update(started)
            _LOG.info("job %s: started, attempt %d", job, started.attempts)
            try:
                run_job(record, folder, self._store.results(job), self._engines, follower)
            except CancelledJobError:
                return ("cancelled" if self._board.cancelled(job) else "queued"), None
            except MemoryLimitError as error:
                if not alone and (not first or self._board.running() > 1):
                    return None
                return "failed", problem_of(error, private=private_texts(folder, record.source))
            except Exception as error:
                return "failed", self._failed(record, error)
            return ("cancelled" if self._board.cancelled(job) else "done"), None

    def _failed(self, record: JobRecord, error: Exception) -> Problem:
        """Return the problem of a job, and replace the engines if they may be the cause."""
        expected = isinstance(error, EXPECTED)
        if isinstance(error, EngineError | MemoryError) or not expected:
            with self._engines.turn:
                self._engines.discard(record.request, record.bundle)
            self._open_engines()
        _LOG.log(
            logging.INFO if expected else logging.ERROR,
            "job %s: %s", record.id, type(error).__name__, exc_info=None if expected else error,
        )  # fmt: skip
        return problem_of(error, private=private_texts(self._store.job_folder(record.id), record.source))

    def _open_engines(self) -> None:
        try:
            self._engines.open_all()
        except (GcisError, OSError, MemoryError) as error:
            _LOG.error("an engine cannot be opened: %s", type(error).__name__)

    def _keep_house(self) -> None:
        """Remove old jobs, and open engines again that could not be opened after an error."""
        while not self.stopping.wait(_PAUSE):
            self._opened = self._opened or self._engines.ready
            if self._opened and not self._engines.ready:
                self._open_engines()
            self._board.save_again()
            with suppress(OSError):
                self.expire(time.time())
