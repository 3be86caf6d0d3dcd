"""Run the cases of a cohort on a Ray cluster."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from gcis_runtime.errors import ClusterError, GcisError
from gcis_runtime.fleet.needs import Needs, needs_of
from gcis_runtime.fleet.pool import Finished, Pool
from gcis_runtime.fleet.ray_cluster import connected
from gcis_runtime.fleet.ray_pool import RayPool
from gcis_runtime.fleet.supervisor import Limits, Supervisor
from gcis_runtime.fleet.worker import Order
from gcis_runtime.pipeline.identity import Identity
from gcis_runtime.runs.callbacks import RunCallbacks
from gcis_runtime.runs.executor import Model
from gcis_runtime.runs.options import RunOptions
from gcis_runtime.runs.outcome import Outcome
from gcis_runtime.runs.outputs import Job, clear_leftovers
from gcis_runtime.system.memory import bytes_text

_VISIBLE_SECONDS = 90.0
"""Time that a report of another machine has to become visible."""


@dataclass(frozen=True, kw_only=True)
class RayExecutor:
    """Computes on a Ray cluster; see `executor.Executor`.

    Images, bundle and outputs must be in folders that all nodes share.

    Attributes:
        address: `HOST:PORT` of the head, or `"auto"`.
    """

    address: str

    @contextmanager
    def open(self, model: Model, options: RunOptions, jobs: Sequence[Job]) -> Iterator[Fleet]:
        """Connect to the cluster, and wait until one worker has opened its engine."""
        _check(model, options)
        depth = 1 if options.segment.max_memory is not None else Limits.depth
        needs = {job.name: found for job in jobs if (found := _needs(job, model, options, depth)) is not None}
        order = Order(
            bundle=Path(os.path.abspath(model.bundle.folder)), sha256=model.bundle.sha256,  # noqa: PTH100
            prompts=tuple(model.prompts), engine=model.engine, options=options,
            folder=Path.cwd(), relative=any(map(_has_relative, jobs)),
        )  # fmt: skip
        with ExitStack() as stack:
            ray = stack.enter_context(connected(self.address))
            of_jobs = list(needs.values()) or [Needs(usual=0, least=0)]
            pool = RayPool(ray, order, of_jobs, threads=model.engine.threads)
            stack.callback(pool.close)
            if not pool.slots():
                raise _no_room(pool, of_jobs, gpu=model.engine.device != "cpu")
            supervisor = Supervisor(
                pool,
                workers=max(len(jobs), 1),
                memory={name: found.least for name, found in needs.items()},
                version=version("gcis"),
                limits=Limits(depth=depth),
            )
            identity = supervisor.start()
            yield Fleet(identity=identity, notes=supervisor.notes, pool=pool, supervisor=supervisor)


@dataclass(frozen=True, kw_only=True, eq=False)
class Fleet:
    """Workers on a cluster, of which at least one is ready; see `executor.OpenExecutor`.

    Attributes:
        identity: What all workers compute with.
        notes: Messages from opening the first engine.
        pool: The cluster.
        supervisor: The supervisor of the workers.
    """

    identity: Identity
    notes: tuple[str, ...]
    pool: Pool
    supervisor: Supervisor

    def run(
        self, jobs: Sequence[Job], *, on_done: Callable[[Outcome], None], callbacks: RunCallbacks
    ) -> None:
        """Run cases; outcomes are passed on in the order in which cases end.

        The report of an earlier run is removed before a worker first receives its case. A report that exists
        afterwards was written in this run, and is never removed, even by a worker that counts as lost.
        """
        arriving = _Arriving(on_done)
        by_name = {job.name: job for job in jobs}
        shown = {job.name: callbacks.of(job) for job in jobs}

        def on_finished(job: Job, event: Finished) -> None:
            arriving.add(Outcome(job=job, report=event.report, error=event.error))

        def on_round() -> None:
            arriving.look()
            if callbacks.on_progress is None and callbacks.on_forecast is None:
                return
            for step in self.pool.progress():
                if step.case not in by_name:
                    continue
                follow = shown[step.case]
                if step.forecast is not None and follow.on_forecast is not None:
                    follow.on_forecast(step.forecast)
                if step.total and follow.on_progress is not None:
                    follow.on_progress(step.finished, step.total)

        self.supervisor.run(
            jobs,
            on_first=lambda job: job.report.unlink(missing_ok=True),
            on_finished=on_finished,
            on_round=on_round,
        )
        while arriving.waiting:
            time.sleep(0.2)
            arriving.look()
        clear_leftovers(jobs)  # workers that were killed while they wrote leave temporary files


class _Arriving:
    """Passes outcomes on as soon as their reports are visible here.

    Network file systems may show a new file up to a minute later on other machines.
    """

    def __init__(self, on_done: Callable[[Outcome], None]) -> None:
        self._on_done = on_done
        self.waiting: list[tuple[Outcome, float]] = []

    def add(self, outcome: Outcome) -> None:
        """Pass an outcome on, or wait for its report."""
        self.waiting.append((outcome, time.monotonic() + _VISIBLE_SECONDS))
        self.look()

    def look(self) -> None:
        """Pass on the outcomes whose reports are visible, and as failed those whose reports stay missing."""
        left = []
        for outcome, latest in self.waiting:
            if outcome.report is None or outcome.job.report.is_file():
                self._on_done(outcome)
            elif time.monotonic() > latest:
                self._on_done(Outcome(job=outcome.job, error=_not_here(outcome.job)))
            else:
                left.append((outcome, latest))
        self.waiting = left


def _not_here(job: Job) -> GcisError:
    """Return the error for results that a worker wrote and this process does not find."""
    return ClusterError(
        f"{job.image}: its results are not in {job.labels.parent}",
        received="a worker that wrote them, and no files here",
        expected="an output folder that all machines share",
        fix="Choose a shared folder with -o.",
    )


def _check(model: Model, options: RunOptions) -> None:
    """Raise an error for options that other processes cannot follow."""
    if options.segment.coarse_segmenter is not None:
        raise ClusterError(
            "an open segmenter cannot be sent to other machines",
            received="SegmentOptions(coarse=Segmenter)",
            expected="the folder or name of its bundle",
            fix="Pass RunOptions(coarse_bundle=...).",
        )
    if ":" in model.engine.device:
        raise ClusterError(
            "Ray selects the GPU of a worker",
            received=f"device {model.engine.device}",
            expected="cuda",
            fix="Pass --device cuda.",
        )


def _needs(job: Job, model: Model, options: RunOptions, depth: int) -> Needs | None:
    """Return the memory of a case; None if its header cannot be read, which the worker reports."""
    try:
        return needs_of(job, model, options, depth=depth)
    except (GcisError, OSError, MemoryError):
        return None


def _has_relative(job: Job) -> bool:
    return not (job.image.is_absolute() and job.labels.is_absolute())


def _no_room(pool: RayPool, needs: Sequence[Needs], *, gpu: bool) -> ClusterError:
    least = min(n.least for n in needs)
    wanted = "a node with a GPU, " if gpu else "a node with a CPU, "
    return ClusterError(
        "no node of the cluster can hold a worker",
        received=pool.describe(),
        expected=f"{wanted}the CPUs of --threads, and {bytes_text(least)} of memory",
        fix="Start nodes with more resources (`ray start --num-cpus --num-gpus --memory`), or pass "
        "--max-memory.",
    )
