"""Define the interface between the supervision of workers and the cluster that runs them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from gcis_runtime.pipeline.forecast import Forecast
from gcis_runtime.pipeline.identity import Identity
from gcis_runtime.pipeline.report import Report
from gcis_runtime.runs.outputs import Job


@dataclass(frozen=True, kw_only=True)
class Slot:
    """Room for one worker on a node.

    Attributes:
        node: Name of the node; unique in the cluster, also after it restarted.
        number: Number of the slot on the node.
        place: The node as users know it.
        cpus: CPUs, which are the threads of the engine.
        gpus: GPUs.
        memory: Memory in bytes.
    """

    node: str
    number: int
    place: str
    cpus: int
    gpus: int
    memory: int


@dataclass(frozen=True, kw_only=True)
class Ready:
    """A worker has opened its engine.

    Attributes:
        worker: Number of the worker.
        identity: What it computes with.
        notes: Messages from opening the engine.
        version: Version of gCIS on its node.
    """

    worker: int
    identity: Identity
    notes: tuple[str, ...] = ()
    version: str = ""


@dataclass(frozen=True, kw_only=True)
class NotReady:
    """A worker cannot open its engine.

    Attributes:
        worker: Number of the worker.
        error: The error in one line.
    """

    worker: int
    error: str


@dataclass(frozen=True, kw_only=True)
class Finished:
    """A worker has finished a case, or could not.

    Attributes:
        worker: Number of the worker.
        case: Name of the case.
        report: Its report; None if it failed.
        error: The error; None if it succeeded.
    """

    worker: int
    case: str
    report: Report | None = None
    error: Exception | None = None


@dataclass(frozen=True, kw_only=True)
class Lost:
    """A worker has ended: its process was killed, or its node is lost.

    Attributes:
        worker: Number of the worker.
        reason: The reason in one line.
    """

    worker: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class Progressed:
    """A worker computes a case.

    Attributes:
        case: Name of the case.
        forecast: The forecast, if it is new.
        finished: Number of finished windows.
        total: Number of all windows; 0 before the first.
    """

    case: str
    forecast: Forecast | None
    finished: int
    total: int


Event = Ready | NotReady | Finished | Lost


class Pool(Protocol):
    """Hires workers on a cluster and passes cases to them."""

    def slots(self) -> Sequence[Slot]:
        """Return the room for workers on the nodes that are alive."""
        ...

    def describe(self) -> str:
        """Return the nodes that are alive and their resources, in one line."""
        ...

    def hire(self, worker: int, slot: Slot) -> None:
        """Start a worker; `Ready`, `NotReady` or `Lost` follows, or nothing until the slot is free."""
        ...

    def submit(self, worker: int, job: Job) -> None:
        """Pass a case to a worker; `Finished` or `Lost` follows."""
        ...

    def dismiss(self, worker: int) -> None:
        """End a worker; nothing follows."""
        ...

    def wait(self, seconds: float) -> Sequence[Event]:
        """Wait at most this long for events, and return them."""
        ...

    def progress(self) -> Sequence[Progressed]:
        """Return the progress of cases since the last call; never wait for a worker."""
        ...
