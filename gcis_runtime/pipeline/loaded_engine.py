"""A bundle in an engine: its session, what blends for it, what its runs cost, and what replaces it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.bundles.bundle import Bundle
from gcis_runtime.bundles.manifest import Graph
from gcis_runtime.engines.info import EngineInfo
from gcis_runtime.engines.memory_fallback import Ladder
from gcis_runtime.engines.session import DeviceSession, Session
from gcis_runtime.errors import DeviceMemoryError, EngineError
from gcis_runtime.sliding.labeller import CpuLabeller, Labeller
from gcis_runtime.system.cpus import cpu_name, usable_cpus
from gcis_runtime.system.memory import resident_bytes

_FIRST_RUNS = 3
"""Runs until an engine's memory stops growing: ONNX Runtime plans its second run by the first."""


class LoadedEngine:
    """One session at a time; not for several threads at once, but `info` may be read by any.

    Args:
        bundle: The verified bundle.
        session: The bundle's graph in an engine.
        ladder: What opened it, and opens what follows when memory runs out; None: nothing does.

    Attributes:
        bundle: The bundle.
        info: What computes now.
        run_bytes: Host memory that the first runs took so far; None while nothing ran.
    """

    def __init__(self, bundle: Bundle, session: Session, ladder: Ladder | None = None) -> None:
        self.bundle, self._ladder = bundle, ladder
        self._closed = False
        self._take(session)

    def _take(self, session: Session) -> None:
        self._session: Session | None = session
        self.info = EngineInfo(
            name=session.name,
            version=session.version,
            device=session.device,
            precision=session.precision,
            threads=session.threads,
        )
        self._runs = 0
        self.run_bytes: int | None = None
        self._labeller: Labeller | None = self._make_labeller(session)

    def _make_labeller(self, session: Session) -> Labeller:
        """Blend where the logits are: on the GPU for a session there."""
        if not isinstance(session, DeviceSession):
            return CpuLabeller(self.run, threads=session.threads or usable_cpus())
        from gcis_runtime.sliding.cuda.labeller import GpuLabeller  # noqa: PLC0415 (only where a GPU is)

        return GpuLabeller(session)

    @property
    def session(self) -> Session:
        """The session that computes now.

        Raises:
            EngineError: It was closed.
        """
        if self._session is None:
            raise _closed()
        return self._session

    @property
    def labeller(self) -> Labeller:
        """What blends for the session.

        Raises:
            EngineError: It was closed.
        """
        if self._labeller is None:
            raise _closed()
        return self._labeller

    @property
    def batch(self) -> int:
        """Windows a run."""
        return self.session.batch

    @property
    def device_bytes(self) -> int | None:
        """Device memory that loading the engine and its runs so far have taken; None on the CPU."""
        session, before = self.session, None if self._ladder is None else self._ladder.free_before
        if before is None or not isinstance(session, DeviceSession):
            return None
        session.gpu.activate()
        return max(0, before - session.gpu.free_memory())

    @property
    def notes(self) -> tuple[str, ...]:
        """What opening the engine did that the user should know."""
        return () if self._session is None else self._session.notes

    @property
    def steps(self) -> Sequence[str]:
        """What was given up for want of memory since the bundle was opened, one line a step."""
        return () if self._ladder is None else tuple(self._ladder.steps)

    @property
    def graph_bytes(self) -> int:
        """Size of the graph's file."""
        return next(e.bytes for e in self.bundle.manifest.files if e.path == self._graph.file)

    @property
    def _graph(self) -> Graph:
        """The graph that the session reads, or was made from."""
        fitting = [g for g in self.bundle.manifest.graphs if g.batch == self.batch]
        exact = [g for g in fitting if g.precision == self.info.precision]
        return (exact or fitting or list(self.bundle.manifest.graphs))[0]

    def run(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the network and refuse an answer that would silently become background."""
        session = self.session
        before = resident_bytes() if self._runs < _FIRST_RUNS else None
        logits = session.run(window)
        if self._runs < _FIRST_RUNS:
            self._runs += 1
            after = resident_bytes()
            if before is not None and after is not None:
                self.run_bytes = (self.run_bytes or 0) + max(0, after - before)
        if not np.isfinite(logits).all():
            raise EngineError(
                f"{session.name} answered with values that are not finite",
                received=self.info.text,
                fix="Use --precision fp32 or another --engine.",
            )
        return logits

    def key(self) -> dict[str, str]:
        """Return what the cost of a run depends on; see `calibration`."""
        session, graph = self.session, self._graph
        gpu = f" {session.gpu.info.name}" if isinstance(session, DeviceSession) else ""
        return {
            "graph": next(e.sha256 for e in self.bundle.manifest.files if e.path == graph.file),
            "engine": f"{self.info.name} {self.info.version}",
            "precision": self.info.precision,
            "threads": str(self.info.threads),
            "batch": str(self.batch),
            "device": self.info.device + gpu,
            "machine": cpu_name(),
        }

    @property
    def can_lower(self) -> bool:
        """Whether there is another way to load the bundle."""
        return self._ladder is not None and self._ladder.can_step

    def lower(self, reason: str) -> None:
        """Close the session that ran out of memory and open what needs less.

        Args:
            reason: What the engine or the system said, in one line.

        Raises:
            DeviceMemoryError: Nothing that needs less can be had.
        """
        if self._ladder is None:
            raise DeviceMemoryError("out of memory", received=reason)
        self._free()
        self._take(self._ladder.lower(reason))

    def exhausted(self, reason: str) -> DeviceMemoryError:
        """Close the last session that ran out of memory and return the error that says what was tried.

        The next volume begins with what was asked for: `reopen`.
        """
        if self._ladder is None:
            return DeviceMemoryError("out of memory", received=reason)
        self._free()
        return self._ladder.exhausted(reason)

    def reopen(self) -> None:
        """Open a session where the last step found none: a later volume may fit.

        Raises:
            EngineError: It was closed, or cannot be had now either.
        """
        self.require_open()
        if self._session is None and self._ladder is not None:
            self._take(self._ladder.open())

    def require_open(self) -> None:
        """Refuse to go on after `close`.

        Raises:
            EngineError: It was closed.
        """
        if self._closed:
            raise _closed()

    def close(self) -> None:
        """Free the engine; closing again does nothing."""
        self._closed = True
        self._free()

    def _free(self) -> None:
        session, self._session = self._session, None
        self._labeller = None  # it may keep memory of the session's device
        if session is not None:
            session.close()


def _closed() -> EngineError:
    return EngineError("the segmenter is closed", fix="Open the bundle again.")
