"""Define the interface between a run and what computes its cases: jobs in, outcomes out.

`cohort.LocalExecutor` computes in this process. Other executors compute elsewhere; the run finds the images,
resumes, and writes the summary in the same way with each of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from gcis_runtime.bundles.bundle import Bundle
from gcis_runtime.engines.options import EngineOptions
from gcis_runtime.pipeline.identity import Identity
from gcis_runtime.runs.callbacks import RunCallbacks
from gcis_runtime.runs.options import RunOptions
from gcis_runtime.runs.outcome import Outcome
from gcis_runtime.runs.outputs import Job


@dataclass(frozen=True, kw_only=True)
class Model:
    """The bundle of a run, its structures to segment, and the engine.

    Attributes:
        bundle: The verified bundle.
        prompts: Structures to segment; all of the bundle's if empty.
        engine: The engine.
    """

    bundle: Bundle
    prompts: Sequence[str]
    engine: EngineOptions


class OpenExecutor(Protocol):
    """An executor whose engine is open."""

    @property
    def identity(self) -> Identity:
        """The bundle and the engine that compute."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Messages from opening the engine."""
        ...

    def run(
        self, jobs: Sequence[Job], *, on_done: Callable[[Outcome], None], callbacks: RunCallbacks
    ) -> None:
        """Read, segment and write cases; a case that fails does not stop the others.

        Args:
            jobs: Cases.
            on_done: Called once with the outcome of each case, in the thread that called `run`.
            callbacks: Functions that follow the computation. `on_start` and `on_done` are not called here.
        """
        ...


class Executor(Protocol):
    """Opens the engine of a run, in this process or elsewhere."""

    def open(
        self, model: Model, options: RunOptions, jobs: Sequence[Job]
    ) -> AbstractContextManager[OpenExecutor]:
        """Return a context manager that opens the engine, and closes it.

        Args:
            model: What to open.
            options: What to compute and write for each case.
            jobs: Cases, of which `run` receives those that no earlier run finished.

        Raises:
            EngineError: The engine cannot be opened.
            PromptError: The bundle does not have a prompt.
        """
        ...
