"""Hire workers on a Ray cluster: one actor per engine, pinned to its node, with the resources of its slot."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import msgspec

from gcis_runtime.errors import ClusterError, GcisError
from gcis_runtime.fleet import ray_cluster
from gcis_runtime.fleet.needs import Needs
from gcis_runtime.fleet.pool import Event, Finished, Lost, NotReady, Progressed, Ready, Slot
from gcis_runtime.fleet.slots import divide
from gcis_runtime.fleet.worker import Opened, Order, Result, Worker
from gcis_runtime.pipeline.report import Report
from gcis_runtime.runs.outputs import Job

_OPEN = ""
"""Stands for the name of a case while the engine is opened."""
_CALLS = 4
"""Calls that an actor accepts at once: two cases, its progress, and one more."""


class RayPool:
    """Workers on a Ray cluster; see `pool.Pool`.

    Ray retries nothing here (`max_restarts` and `max_task_retries` are 0). What a case does wrong is a return
    value; every exception of a call is therefore the cluster's.

    Args:
        ray: The module, connected to a cluster.
        order: What workers open and compute.
        needs: Memory of the cases.
        threads: CPUs per worker; None for all of a node.
    """

    def __init__(self, ray: Any, order: Order, needs: Sequence[Needs], *, threads: int | None) -> None:
        self._ray, self._order, self._needs, self._threads = ray, order, needs, threads
        self._actors: dict[int, Any] = {}
        self._calls: dict[Any, tuple[int, str]] = {}
        self._asked: dict[Any, int] = {}

    def slots(self) -> Sequence[Slot]:
        """Return the room for workers on the nodes that are alive."""
        gpu = self._order.engine.device != "cpu"
        return divide(ray_cluster.nodes(self._ray), self._needs, threads=self._threads, gpu=gpu)

    def describe(self) -> str:
        """Return the nodes that are alive and their resources, in one line."""
        return "; ".join(node.text for node in ray_cluster.nodes(self._ray)) or "no node is alive"

    def hire(self, worker: int, slot: Slot) -> None:
        """Start an actor, and open its engine."""
        from ray.util.scheduling_strategies import (  # noqa: PLC0415 (an extra)
            NodeAffinitySchedulingStrategy,
        )

        kind = self._ray.remote(Worker).options(
            num_cpus=slot.cpus,
            num_gpus=slot.gpus,
            memory=slot.memory,
            max_restarts=0,
            max_task_retries=0,
            max_concurrency=_CALLS,
            scheduling_strategy=NodeAffinitySchedulingStrategy(slot.node, soft=False),
        )
        actor = self._actors[worker] = kind.remote(self._order, slot.cpus)
        self._calls[actor.open.remote()] = worker, _OPEN

    def submit(self, worker: int, job: Job) -> None:
        """Pass a case to an actor."""
        self._calls[self._actors[worker].run.remote(job)] = worker, job.name

    def dismiss(self, worker: int) -> None:
        """Kill an actor and forget its calls."""
        self._forget(worker)
        self._ray.kill(self._actors.pop(worker))

    def close(self) -> None:
        """Kill all actors."""
        for worker in list(self._actors):
            self.dismiss(worker)

    def wait(self, seconds: float) -> Sequence[Event]:
        """Wait at most this long for results of calls."""
        calls = list(self._calls)
        if not calls:
            time.sleep(seconds)
            return ()
        ready, _ = self._ray.wait(calls, num_returns=1, timeout=seconds)
        events: list[Event] = []
        for call in ready:
            if call in self._calls:
                events.append(self._event(call))
        return events

    def _event(self, call: Any) -> Event:
        worker, case = self._calls.pop(call)
        try:
            value = self._ray.get(call)
        except self._ray.exceptions.RayError as error:
            self._forget(worker)
            self._ray.kill(self._actors.pop(worker))  # on a node that is only unreachable, it may live
            return Lost(worker=worker, reason=_first_line(error))
        if isinstance(value, Opened):
            if value.identity is None:
                return NotReady(worker=worker, error=value.error)
            return Ready(worker=worker, identity=value.identity, notes=value.notes, version=value.version)
        return finished(worker, case, value)

    def _forget(self, worker: int) -> None:
        self._calls = {call: known for call, known in self._calls.items() if known[0] != worker}
        self._asked = {call: known for call, known in self._asked.items() if known != worker}

    def progress(self) -> Sequence[Progressed]:
        """Return the answers to the last question for progress, and ask the actors that answered."""
        found: list[Progressed] = []
        if self._asked:
            ready, _ = self._ray.wait(list(self._asked), num_returns=len(self._asked), timeout=0)
            for call in ready:
                del self._asked[call]
                try:
                    found += self._ray.get(call)
                except self._ray.exceptions.RayError:
                    continue  # its worker is lost, which the call of its case reports
        busy = {worker for worker, case in self._calls.values() if case != _OPEN}
        for worker in busy - set(self._asked.values()):
            self._asked[self._actors[worker].progress.remote()] = worker
        return found


def finished(worker: int, case: str, result: Result) -> Finished:
    """Return the event for the result of a case."""
    if result.report is not None:
        return Finished(worker=worker, case=case, report=msgspec.json.decode(result.report, type=Report))
    text = f"{result.unexpected}: {result.error}" if result.unexpected else result.error
    error = ClusterError(text) if result.unexpected else GcisError(text)
    error.add_note(f"in a worker of the cluster:\n{result.trace}")
    return Finished(worker=worker, case=case, error=error)


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
