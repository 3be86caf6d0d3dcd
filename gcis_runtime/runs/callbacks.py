"""Define the callbacks that follow a run over many images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from gcis_runtime.pipeline.forecast import Forecast
from gcis_runtime.pipeline.identity import Identity
from gcis_runtime.pipeline.options import Callbacks, Progress
from gcis_runtime.runs.outcome import Outcome
from gcis_runtime.runs.outputs import Job
from gcis_runtime.runs.summary import Summary


@dataclass(frozen=True, kw_only=True, eq=False)
class RunStart:
    """The state of a run before its first image.

    Attributes:
        identity: The bundle and the engine that is open.
        notes: Messages from opening it.
        jobs: All cases, in order, with those that an earlier run finished.
        summary: The summary, whose counts follow the run; None for a single image without one.
    """

    identity: Identity
    notes: tuple[str, ...]
    jobs: Sequence[Job]
    summary: Summary | None


@dataclass(frozen=True, kw_only=True)
class RunCallbacks:
    """Functions that follow a run. They are called in the thread that computes.

    Attributes:
        on_start: Called once, after the engine was opened.
        on_done: Called with the outcome of each case: in order in one process, as they end on many machines.
        on_progress: Returns a case's progress callback, or None.
        on_forecast: Called with a case's forecast, before it starts.
    """

    on_start: Callable[[RunStart], None] | None = None
    on_done: Callable[[Outcome], None] | None = None
    on_progress: Callable[[Job], Progress | None] | None = None
    on_forecast: Callable[[Job, Forecast], None] | None = None

    def of(self, job: Job) -> Callbacks:
        """Return the callbacks of one case."""
        return Callbacks(
            on_progress=None if self.on_progress is None else self.on_progress(job),
            on_forecast=None if self.on_forecast is None else partial(self.on_forecast, job),
        )
