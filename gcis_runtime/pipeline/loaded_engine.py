"""Own the session of a bundle: open, run, replace after memory ran out, and close it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.bundles.bundle import Bundle
from gcis_runtime.bundles.manifest import Graph
from gcis_runtime.engines.factory import open_session
from gcis_runtime.engines.info import EngineInfo
from gcis_runtime.engines.memory_fallback import OUT_OF_MEMORY, MemoryFallback
from gcis_runtime.engines.options import EngineOptions
from gcis_runtime.engines.session import DeviceSession, Session
from gcis_runtime.engines.usable import as_unusable, reason_of
from gcis_runtime.errors import EngineError, UnusableEngineError
from gcis_runtime.pipeline.open_engine import Opener, open_first
from gcis_runtime.pipeline.precision_check import check_before_first_run
from gcis_runtime.sliding.labeller import CpuLabeller, Labeller
from gcis_runtime.system.cpus import cpu_name, usable_cpus
from gcis_runtime.system.memory import resident_bytes

_T = TypeVar("_T")

_PREPARING_THREADS = 8
"""Most CPU threads that prepare the image for a GPU: more compete for the bandwidth of the memory."""
_FIRST_RUNS = 3
"""Runs after which an engine's memory no longer grows: ONNX Runtime plans its second run from the first."""


class LoadedEngine:
    """A bundle in an engine. It owns the session: no other object opens, replaces or closes it.

    At most one session is open at a time. Only `info` may be read while another thread computes.

    Args:
        bundle: The verified bundle.
        session: An open session of the bundle, which is closed with this object. Without fallback options,
            memory that runs out is an error.

    Attributes:
        bundle: The bundle.
        info: The engine that computes now.
        run_bytes: Host memory in bytes that the first runs have allocated so far; None before the first run.
    """

    def __init__(self, bundle: Bundle, session: Session) -> None:
        self.bundle = bundle
        self._fallback: MemoryFallback | None = None
        self._opener: Opener = open_session
        self._closed = False
        self._free_before: int | None = None
        self._session: Session | None
        self._labeller: Labeller | None
        self.run_bytes: int | None
        self._adopt(session)

    @classmethod
    def open(cls, bundle: Bundle, options: EngineOptions, *, opener: Opener = open_session) -> LoadedEngine:
        """Open a session; if memory is too small, open the first smaller configuration that fits.

        The first time that `"auto"` may select fp16 on a GPU, fp16 is checked on a few windows.
        With engine `"auto"`, an engine that is installed but does not work is replaced by the next one.

        Args:
            bundle: The verified bundle.
            options: The engine.
            opener: Opens sessions.

        Raises:
            EngineError: The engine cannot be opened, for a reason other than memory.
            DeviceMemoryError: No configuration fits into memory.
        """
        check_before_first_run(bundle, options, opener)
        fallback = MemoryFallback(bundle, options)
        session, free_before = open_first(bundle, fallback, opener)
        engine = cls(bundle, session)
        engine._fallback, engine._opener, engine._free_before = fallback, opener, free_before
        return engine

    @property
    def session(self) -> Session:
        """The session that computes now.

        Raises:
            EngineError: The engine was closed.
        """
        if self._session is None:
            raise _closed()
        return self._session

    @property
    def labeller(self) -> Labeller:
        """The labeller that blends the session's logits.

        Raises:
            EngineError: The session was closed.
        """
        if self._labeller is None:
            raise _closed()
        return self._labeller

    @property
    def tf32(self) -> bool:
        """Whether the user permitted float32 products to round their factors."""
        return self._fallback is not None and self._fallback.requested.tf32

    @property
    def batch(self) -> int:
        """Windows per run."""
        return self.session.batch

    @property
    def device_bytes(self) -> int | None:
        """Device memory in bytes that the engine has allocated so far; None on the CPU."""
        session, before = self.session, self._free_before
        if before is None or not isinstance(session, DeviceSession):
            return None
        session.gpu.activate()
        return max(0, before - session.gpu.free_memory())

    @property
    def notes(self) -> tuple[str, ...]:
        """Messages from opening the engine, such as that one was built for this GPU."""
        return () if self._session is None else self._session.notes

    @property
    def steps(self) -> Sequence[str]:
        """One line per configuration that was abandoned since the bundle was opened, with the reason."""
        return () if self._fallback is None else tuple(self._fallback.steps)

    @property
    def graph_bytes(self) -> int:
        """Size of the graph's file in bytes."""
        return self.bundle.manifest.entry(self._graph.file).bytes

    @property
    def _graph(self) -> Graph:
        """The graph that the session reads or was built from."""
        fitting = [g for g in self.bundle.manifest.graphs if g.batch == self.batch]
        exact = [g for g in fitting if g.precision == self.info.precision]
        return (exact or fitting or list(self.bundle.manifest.graphs))[0]

    def key(self) -> dict[str, str]:
        """Return everything that the cost of a run depends on; see `calibration`."""
        session = self.session
        gpu = f" {session.gpu.info.name}" if isinstance(session, DeviceSession) else ""
        measured = getattr(session, "measured", "")
        return ({"settings": measured} if measured else {}) | {
            "graph": self.bundle.manifest.entry(self._graph.file).sha256,
            "engine": f"{self.info.name} {self.info.version}",
            "precision": self.info.precision,
            "threads": str(self.info.threads),
            "batch": str(self.batch),
            "device": self.info.device + gpu,
            "machine": cpu_name(),
        }

    def run(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        """Run the network on a batch of windows; see `Session.run`.

        Raises:
            EngineError: The engine failed, or a logit is not finite, which would silently become background.
            UnusableEngineError: The same, on the engine's first run.
        """
        if self._runs:
            return self._run(window)
        try:
            return self._run(window)
        except OUT_OF_MEMORY:
            raise
        except EngineError as error:
            raise as_unusable(error) from error

    def _run(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        session = self.session
        before = resident_bytes() if self._runs < _FIRST_RUNS else None
        logits = session.run(window)
        if not np.isfinite(logits).all():
            raise EngineError(
                f"the output of {session.name} is not finite",
                received=f"logits that are not finite, by {self.info.text}",
                fix="Use --precision fp32 or another --engine.",
            )
        if self._runs < _FIRST_RUNS:
            self._runs += 1
            after = resident_bytes()
            if before is not None and after is not None:
                self.run_bytes = (self.run_bytes or 0) + max(0, after - before)
        return logits

    def until_it_fits(self, work: Callable[[], _T]) -> tuple[_T, float]:
        """Call `work`; each time memory runs out, call it again with a session that needs less.

        With engine `"auto"`, an engine that fails on its first window is replaced by the next one.

        Every attempt starts from the beginning and reuses no result of a failed attempt.

        Args:
            work: Computes with this engine.

        Returns:
            The result, and the seconds lost in attempts that failed.

        Raises:
            DeviceMemoryError: No configuration fits into memory. The next call starts with the requested one.
            MemoryError: The same, if there was only one configuration.
            EngineError: The engine was closed, or `work` failed.
        """
        self._reopen()
        lost = 0.0
        while True:
            begun = time.perf_counter()
            try:
                return work(), lost
            except OUT_OF_MEMORY as error:
                if self._fallback is None or not (self._fallback.can_step or self._fallback.steps):
                    raise
                if not self._fallback.can_step:
                    self._free()
                    raise self._fallback.exhausted(reason_of(error)) from error
                reason = reason_of(error)  # not the error: its traceback keeps the attempt's arrays alive
                step = self._fallback.step
            except UnusableEngineError as error:
                if self._fallback is None or not self._fallback.has_other_engine:
                    raise
                reason, step = reason_of(error), self._fallback.replace_engine
            with contextlib.suppress(EngineError):  # a GPU that failed also fails to free its memory
                self._free()
            step(reason)
            self._open()
            lost += time.perf_counter() - begun

    def require_open(self) -> None:
        """Raise an error after `close`.

        Raises:
            EngineError: The engine was closed.
        """
        if self._closed:
            raise _closed()

    def close(self) -> None:
        """Free the engine; closing again does nothing."""
        self._closed = True
        self._free()

    def _reopen(self) -> None:
        """Open a session if the last volume ended without one: a smaller volume may fit."""
        self.require_open()
        if self._session is None:
            self._open()

    def _open(self) -> None:
        if self._fallback is not None:
            session, self._free_before = open_first(self.bundle, self._fallback, self._opener)
            self._adopt(session)

    def _adopt(self, session: Session) -> None:
        self._session = session
        self.info = EngineInfo(
            name=session.name,
            version=session.version,
            device=session.device,
            precision=session.precision,
            threads=session.threads,
            reason=getattr(session, "reason", ""),
            settings=getattr(session, "settings_text", ""),
        )
        self._runs = 0
        self.run_bytes = None
        self._labeller = self._make_labeller(session)

    def _make_labeller(self, session: Session) -> Labeller:
        """Return a labeller that blends on the session's device."""
        if not isinstance(session, DeviceSession):
            return CpuLabeller(self.run, threads=session.threads or usable_cpus())
        from gcis_runtime.sliding.cuda.labeller import GpuLabeller  # noqa: PLC0415 (needs cuda-python)

        return GpuLabeller(session, threads=min(usable_cpus(), _PREPARING_THREADS))

    def _free(self) -> None:
        session, self._session = self._session, None
        self._labeller = None  # the labeller may hold memory of the session's device
        if session is not None:
            session.close()


def _closed() -> EngineError:
    return EngineError("the segmenter is closed", fix="Open the bundle again.")
