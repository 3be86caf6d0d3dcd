"""What happens when memory runs out: the window batch halves, then another engine or device, step by step.

Every step is a fresh session, opened once the one before is closed, and is told in one line. An engine that
was asked for by name is kept: only its batch is halved (`docs/decisions/0043-forecast-and-fall-back.md`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from gcis_runtime.bundles.bundle import Bundle
from gcis_runtime.engines.factory import automatic_engines, open_session
from gcis_runtime.engines.session import Session
from gcis_runtime.errors import DeviceMemoryError, EngineError

OUT_OF_MEMORY = (DeviceMemoryError, MemoryError)
"""Errors after which something smaller may do."""

Opener = Callable[..., Session]
"""Opens a bundle with the keyword arguments of `Opening`, as `open_session` does."""


@dataclass(frozen=True, kw_only=True)
class Opening:
    """How a bundle is loaded into an engine; see `open_session`.

    Attributes:
        engine: Engine, or `"auto"`.
        device: `"cpu"`, `"cuda"` or `"cuda:1"`.
        precision: Precision, or `"auto"`.
        threads: CPU threads; None counts what the process may use.
        batch: Most windows a run; None leaves it to the engine.
        tf32: ONNX Runtime on a GPU: let float32 products round their factors.
    """

    engine: str = "auto"
    device: str = "cpu"
    precision: str = "auto"
    threads: int | None = None
    batch: int | None = None
    tf32: bool = False

    @property
    def text(self) -> str:
        """Engine, device and batch, for people."""
        batch = "" if self.batch is None else f", window batch {self.batch}"
        return f"{self.engine} on {self.device}{batch}"


class Ladder:
    """The ways to open a bundle that are tried one after another when memory runs out.

    A smaller batch needs less memory; another engine or device needs other memory, or finds more of it free.

    Args:
        bundle: The bundle.
        opening: What was asked for. Engine `"auto"` allows other engines, and the CPU after a GPU.
        opener: Opens sessions.

    Attributes:
        asked: What was asked for.
        steps: What was given up so far and why, one line a step.
        free_before: Device memory that was free before the last session was opened; None on the CPU.
    """

    def __init__(self, bundle: Bundle, opening: Opening, *, opener: Opener = open_session) -> None:
        self._bundle, self._opener = bundle, opener
        self.asked = self._now = opening
        self.steps: list[str] = []
        self.free_before: int | None = None

    def open(self) -> Session:
        """Open what stands now, or where memory does not suffice the next way that opens.

        Raises:
            EngineError: What was asked for cannot be had.
            DeviceMemoryError: Memory did not suffice for any way.
        """
        while True:
            try:
                return self._take()
            except OUT_OF_MEMORY as error:
                if not self.can_step:
                    raise self.exhausted(reason_of(error)) from error
                self._step(reason_of(error))
            except EngineError as error:
                if not self.steps:
                    raise  # what was asked for cannot be had, and that is not for want of memory
                if not self.can_step:
                    raise self.exhausted(reason_of(error)) from error
                self.steps.append(f"{self._now.text} cannot be had: {reason_of(error)}")
                self._now = next(self._below())

    @property
    def can_step(self) -> bool:
        """Whether there is a way after the one that stands now."""
        return next(self._below(), None) is not None

    def lower(self, reason: str) -> Session:
        """Open the next way, after the one that stands ran out of memory and was closed.

        Args:
            reason: What the engine or the system said, in one line.

        Raises:
            DeviceMemoryError: There is none, or none that can be had.
        """
        if not self.can_step:
            raise self.exhausted(reason)
        self._step(reason)
        return self.open()

    def _take(self) -> Session:
        now = self._now
        self.free_before = None if now.device == "cpu" else _free_on_device(now.device)
        session = self._opener(
            self._bundle,
            engine=now.engine,
            device=now.device,
            precision=now.precision,
            threads=now.threads,
            batch=now.batch,
            tf32=now.tf32,
        )
        self._now = replace(now, engine=session.name, device=session.device, batch=session.batch)
        return session

    def _step(self, reason: str) -> None:
        """Move to the next way, and say so."""
        following = next(self._below())
        self.steps.append(f"out of memory with {self._now.text} ({reason}): on with {following.text}")
        self._now = following

    def _below(self) -> Iterator[Opening]:
        """Give the ways that come after the one that stands, best first."""
        now, asked = self._now, self.asked
        batch = now.batch or (1 if now.device == "cpu" else _most_windows(self._bundle))
        if batch > 1:
            yield replace(now, batch=batch // 2)
            return
        if asked.engine != "auto":
            return
        for device in dict.fromkeys((now.device, "cpu")):
            names = automatic_engines(self._bundle, device)
            if device == now.device:
                names = names[names.index(now.engine) + 1 :] if now.engine in names else names[1:]
            for name in names:
                tf32 = asked.tf32 and name == "onnx" and device != "cpu"
                yield replace(asked, engine=name, device=device, batch=1, tf32=tf32)

    def exhausted(self, reason: str) -> DeviceMemoryError:
        """Return the error that ends this volume; the next one begins with what was asked for again."""
        fix = "Use a machine with more memory, or a bundle with a smaller window."
        if self.asked.engine != "auto":
            fix = "Without --engine, other engines and then the CPU are tried. " + fix
        tried = f"; before that: {'; '.join(self.steps)}" if self.steps else ""
        failed, self._now, self.steps = self._now, self.asked, []
        return DeviceMemoryError(
            f"out of memory with {failed.text}, and nothing else is left to try",
            received=f"{reason}{tried}",
            fix=fix,
        )


def _most_windows(bundle: Bundle) -> int:
    return max(graph.batch for graph in bundle.manifest.graphs)


def _free_on_device(device: str) -> int | None:
    """Return the free memory of a GPU, or None where none answers: opening a session then says why."""
    from gcis_runtime.engines.gpu.device import Device  # noqa: PLC0415 (only where a GPU is asked for)
    from gcis_runtime.engines.gpu.probe import require_gpu  # noqa: PLC0415

    try:
        with Device(require_gpu(device)) as gpu:
            return gpu.free_memory()
    except EngineError:
        return None


def reason_of(error: BaseException) -> str:
    """Return an error's first words in one line."""
    text = getattr(error, "received", None) or str(error) or type(error).__name__
    return " ".join(str(text).split())[:200]
