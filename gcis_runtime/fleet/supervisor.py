"""Supervise workers: pass cases to those that are ready, and repeat the cases of those that were lost.

The retries of a cluster are not used. They repeat cases on workers that are not ready, repeat a case that
kills its worker for ever, or fail the cases that shared its node.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from gcis_runtime.errors import ClusterError, MemoryLimitError
from gcis_runtime.fleet.pool import Event, Finished, Lost, NotReady, Pool, Ready, Slot
from gcis_runtime.fleet.same_engine import check_same, check_version
from gcis_runtime.pipeline.identity import Identity
from gcis_runtime.runs.outputs import Job
from gcis_runtime.system.memory import bytes_text
from gcis_runtime.text import counted

MOST_LOSSES = 3
"""Workers that a case may be lost with, and attempts to start a worker in one slot."""
_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Settings of the supervision.

    Attributes:
        depth: Cases that a worker holds: one is computed while the other one is read or written.
        slots_seconds: Seconds between two looks at the nodes of the cluster.
        alone_seconds: Seconds without any worker after which the run ends.
        patience_seconds: Seconds without a ready worker after which this is reported.
    """

    depth: int = 2
    slots_seconds: float = 2.0
    alone_seconds: float = 60.0
    patience_seconds: float = 30.0


@dataclass(kw_only=True, eq=False)
class _Worker:
    """A hired worker, its cases, and whether its engine is open."""

    slot: Slot
    ready: bool = False
    cases: dict[str, Job] = field(default_factory=dict)


class Supervisor:
    """The workers of a run.

    Args:
        pool: The cluster.
        workers: Largest number of workers.
        memory: Memory in bytes that each case needs, by name.
        version: Version of gCIS that workers must have.
        limits: Settings.
        clock: Returns seconds.
    """

    def __init__(
        self,
        pool: Pool,
        *,
        workers: int,
        memory: Mapping[str, int],
        version: str = "",
        limits: Limits | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool, self._most, self._memory, self._version = pool, workers, memory, version
        self._limits, self._clock = limits or Limits(), clock
        self._workers: dict[int, _Worker] = {}
        self._hired = 0
        self._queue: deque[Job] = deque()
        self._passed: set[str] = set()
        self._losses: dict[str, int] = {}
        self._failed_starts: dict[tuple[str, int], int] = {}
        self._reasons: list[str] = []
        self._identity: Identity | None = None
        self._notes: tuple[str, ...] = ()
        self._looked = -float("inf")
        self._slots: tuple[Slot, ...] = ()
        self._with_worker = self._with_ready = clock()

    @property
    def notes(self) -> tuple[str, ...]:
        """Messages from opening the first engine."""
        return self._notes

    def start(self) -> Identity:
        """Hire workers, and return what they compute with once the first one is ready.

        Raises:
            ClusterError: No worker can open its engine, or the cluster has no room for one.
        """
        while self._identity is None:
            self._hire()
            for event in self._pool.wait(0.5):
                self._handle(event, _unexpected)
        return self._identity

    def run(
        self,
        jobs: Iterable[Job],
        *,
        on_first: Callable[[Job], None] = lambda _job: None,
        on_finished: Callable[[Job, Finished], None],
        on_round: Callable[[], None] = lambda: None,
    ) -> None:
        """Run cases; return when each has finished or failed.

        Args:
            jobs: Cases.
            on_first: Called with each case before it is passed to its first worker.
            on_finished: Called with each case that finished or failed, in this thread.
            on_round: Called several times per second.

        Raises:
            ClusterError: All workers are lost, or two nodes compute with different engines.
        """
        self._queue.extend(jobs)
        self._most = min(self._most, len(self._queue))
        for number in list(self._workers)[self._most :]:
            self._dismiss(number)
        self._looked = -float("inf")
        while self._queue or any(worker.cases for worker in self._workers.values()):
            self._hire()
            self._fail_too_large(on_finished)
            self._feed(on_first)
            for event in self._pool.wait(0.2):
                self._handle(event, on_finished)
            on_round()

    def _hire(self) -> None:
        """Fill free slots with workers, if there are cases for them."""
        now = self._clock()
        self._report_waiting(now)
        started = self._identity is not None
        if now - self._looked < self._limits.slots_seconds or (started and not self._queue):
            return
        self._looked, self._slots = now, tuple(self._pool.slots())
        taken = {(w.slot.node, w.slot.number) for w in self._workers.values()}
        for slot in sorted(self._slots, key=lambda slot: -slot.memory):
            place = (slot.node, slot.number)
            if place in taken or self._failed_starts.get(place, 0) >= MOST_LOSSES:
                continue
            if len(self._workers) < self._most or self._needs_room(slot):
                self._hired += 1
                self._workers[self._hired] = _Worker(slot=slot)
                self._pool.hire(self._hired, slot)
        if self._workers:
            self._with_worker = now
        elif (
            self._slots
            and all(
                self._failed_starts.get((slot.node, slot.number), 0) >= MOST_LOSSES for slot in self._slots
            )
        ) or now - self._with_worker > self._limits.alone_seconds:
            raise self._no_worker()

    def _needs_room(self, slot: Slot) -> bool:
        """Return whether a case waits that fits into a slot, and into that of no worker."""
        most = max((worker.slot.memory for worker in self._workers.values()), default=0)
        return any(most < self._memory.get(job.name, 0) <= slot.memory for job in self._queue)

    def _report_waiting(self, now: float) -> None:
        """Log a note if no worker has been ready for some time."""
        if any(worker.ready for worker in self._workers.values()):
            self._with_ready = now
        elif now - self._with_ready > self._limits.patience_seconds:
            self._with_ready = now
            reason = "; ".join(self._reasons[-2:]) or "the nodes are in use"
            _LOG.warning("gcis: note: no worker is ready yet: %s", reason)

    def _fail_too_large(self, on_finished: Callable[[Job, Finished], None]) -> None:
        """Fail the cases that no node can hold; they would wait for ever."""
        if not self._slots:
            return
        most = max(slot.memory for slot in self._slots)
        for job in [job for job in self._queue if self._memory.get(job.name, 0) > most]:
            self._queue.remove(job)
            error = MemoryLimitError(
                f"{job.image} needs more memory than a worker of the cluster has",
                received=f"{bytes_text(self._memory[job.name])} predicted from its header",
                expected=f"at most {bytes_text(most)}",
                fix="Add a node with more memory, start fewer workers per node with a larger --threads, or "
                "pass --max-memory.",
            )
            on_finished(job, Finished(worker=0, case=job.name, error=error))

    def _no_worker(self) -> ClusterError:
        left = f"{counted(len(self._queue), 'image')} left" if self._queue else None
        reason = "; ".join(dict.fromkeys(self._reasons[-3:])) or "no node has room for a worker"
        return ClusterError(
            "the cluster has no worker" + (f", {left}" if left else ""),
            received=f"{reason} ({self._pool.describe()})",
            fix="Correct the reason, then repeat the command with --resume." if left else None,
        )

    def _feed(self, on_first: Callable[[Job], None]) -> None:
        """Pass cases to workers that are ready."""
        for number, worker in self._workers.items():
            while worker.ready and (job := self._next(worker)) is not None:
                worker.cases[job.name] = job
                if job.name not in self._passed:
                    self._passed.add(job.name)
                    on_first(job)
                self._pool.submit(number, job)

    def _next(self, worker: _Worker) -> Job | None:
        """Take the next case for a worker from the queue.

        A case that was lost with a worker runs alone from then on, so that a second loss is its own.
        """
        if len(worker.cases) >= self._limits.depth or any(self._losses.get(n) for n in worker.cases):
            return None
        for job in self._queue:
            fits = self._memory.get(job.name, 0) <= worker.slot.memory
            if fits and not (worker.cases and self._losses.get(job.name)):
                self._queue.remove(job)
                return job
        return None

    def _handle(self, event: Event, on_finished: Callable[[Job, Finished], None]) -> None:
        worker = self._workers.get(event.worker)
        if worker is None:
            return  # it was dismissed or is lost: its cases were passed on
        place = (worker.slot.node, worker.slot.number)
        if isinstance(event, Ready):
            check_version(event, self._version, place=worker.slot.place)
            if self._identity is None:
                self._identity, self._notes = event.identity, event.notes
            check_same(self._identity, event.identity, place=worker.slot.place)
            worker.ready = True
            self._failed_starts.pop(place, None)
        elif isinstance(event, NotReady):
            self._failed_starts[place] = MOST_LOSSES  # another attempt would fail in the same way
            self._reasons.append(f"{worker.slot.place}: {event.error}")
            if self._identity is not None:
                _LOG.warning("gcis: note: %s is not used: %s", worker.slot.place, event.error)
            self._dismiss(event.worker)
        elif isinstance(event, Finished):
            job = worker.cases.pop(event.case, None)
            if job is not None:
                on_finished(job, event)
        else:
            self._lose(event, worker, on_finished)

    def _lose(self, event: Lost, worker: _Worker, on_finished: Callable[[Job, Finished], None]) -> None:
        """Put the cases of a lost worker back to the front of the queue; fail those lost too often."""
        del self._workers[event.worker]
        self._looked = -float("inf")  # replace it at once
        self._reasons.append(f"{worker.slot.place}: {event.reason}")
        if not worker.ready:
            place = (worker.slot.node, worker.slot.number)
            self._failed_starts[place] = self._failed_starts.get(place, 0) + 1
        for job in reversed(worker.cases.values()):
            losses = self._losses[job.name] = self._losses.get(job.name, 0) + 1
            if losses < MOST_LOSSES:
                self._queue.appendleft(job)
                continue
            error = ClusterError(
                f"{job.image}: its worker ended {losses} times while it ran",
                received=event.reason,
                fix="Run the image on one machine to see the reason; often memory ran out.",
            )
            on_finished(job, Finished(worker=event.worker, case=job.name, error=error))

    def _dismiss(self, number: int) -> None:
        del self._workers[number]
        self._pool.dismiss(number)


def _unexpected(job: Job, _event: Finished) -> None:
    raise RuntimeError(f"case {job.name} finished before the run")
