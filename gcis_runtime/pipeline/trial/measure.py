"""Measure settings of ONNX Runtime on CUDA next to the plain settings: logits, time, memory.

Every candidate computes the windows in several orders and groupings, so that a CUDA graph which replays old
inputs gives wrong logits. Then both sessions take turns.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from gcis_runtime.bundles.bundle import Bundle
from gcis_runtime.bundles.manifest import ParityRow
from gcis_runtime.choices import Precision
from gcis_runtime.engines.onnx.cuda import OnnxCudaSession
from gcis_runtime.engines.onnx.cuda_settings import CudaSettings, Outcome
from gcis_runtime.engines.parity import LIMITS, Logits, compare, describe, describe_limits
from gcis_runtime.engines.usable import reason_of
from gcis_runtime.errors import EngineError
from gcis_runtime.pipeline.check_windows import Window
from gcis_runtime.pipeline.precision_check import check_windows
from gcis_runtime.pipeline.trial.task import Task

WINDOWS = 4
"""Windows of the phantom; a constant window is added. An odd number leaves the last batch incomplete."""
ROUNDS = 3
"""Times that every window is computed, each time after another one."""
TURNS = 7
"""Turns per session, of which the median counts."""
WINDOWS_PER_TURN = 8
"""Windows that a session computes in a turn."""

Clock = Callable[[], float]


def measure(
    bundle: Bundle,
    task: Task,
    *,
    windows: Sequence[Window] | None = None,
    windows_per_turn: int = WINDOWS_PER_TURN,
    clock: Clock = time.perf_counter,
) -> Iterator[Outcome | None]:
    """Yield None when the plain settings have answered, then one outcome per candidate.

    Args:
        bundle: The bundle of the task.
        task: What to measure.
        windows: Windows to compute; None for those of a phantom.
        windows_per_turn: Windows that a session computes while its time is taken.
        clock: Seconds.

    Raises:
        EngineError: The plain settings do not work.
    """
    begun = clock()
    trial = _Trial(bundle=bundle, task=task, windows_per_turn=windows_per_turn, clock=clock)
    windows = windows or check_windows(bundle, WINDOWS)
    order = [windows[(n + r) % len(windows)] for r in range(ROUNDS) for n in range(len(windows))]
    trial.start(task.plain, windows[0])[0].close()  # loads the libraries
    plain, plain_start = trial.start(task.plain, windows[0])
    try:
        reference = _Reference(session=plain, start=plain_start, order=order, logits=_answers(plain, order))
        yield None
        for settings in task.candidates:
            if clock() - begun > task.seconds:
                yield Outcome(settings=settings, problem=out_of_time(task.seconds))
            else:
                yield trial.outcome(settings, reference)
    finally:
        plain.close()


def out_of_time(seconds: float) -> str:
    """Return why settings were not measured at the end of the trial."""
    return f"not measured within the {seconds:.0f} s of the trial"


@dataclass(frozen=True, kw_only=True, eq=False)
class _Reference:
    """The plain session, its start in seconds, the windows in the order of computing, and their logits."""

    session: OnnxCudaSession
    start: float
    order: Sequence[Window]
    logits: Sequence[Logits]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Trial:
    """What all candidates share."""

    bundle: Bundle
    task: Task
    windows_per_turn: int
    clock: Clock

    def start(self, settings: CudaSettings, window: Window) -> tuple[OnnxCudaSession, float]:
        """Open a session and run it once; return it and the seconds for both."""
        begun = self.clock()
        session = OnnxCudaSession(
            self.bundle, device=self.task.device, precision=self.task.precision, settings=settings
        )
        try:
            session.run(window)
        except BaseException:
            session.close()
            raise
        return session, self.clock() - begun

    def outcome(self, settings: CudaSettings, reference: _Reference) -> Outcome:
        """Measure a candidate; its errors are the outcome."""
        outcome = Outcome(settings=settings)
        free = reference.session.gpu.free_memory()
        try:
            session, start = self.start(settings, reference.order[0])
            try:
                outcome = self._compared(outcome, session, reference)
                if not outcome.problem:
                    used = max(0, free - session.gpu.free_memory())
                    outcome = msgspec.structs.replace(
                        self._timed(outcome, session, reference), start_seconds=start, device_bytes=used
                    )
            finally:
                session.close()
        except EngineError as error:
            return msgspec.structs.replace(outcome, problem=reason_of(error))
        return outcome

    def _compared(self, outcome: Outcome, session: OnnxCudaSession, reference: _Reference) -> Outcome:
        """Compare the logits with those of the plain settings."""
        answers = _answers(session, reference.order)
        row = self._row(answers, reference.logits)
        outcome = msgspec.structs.replace(outcome, relative=row.relative)
        if not row.passed:
            problem = f"other logits: {describe(row)}; expected {describe_limits(row)}"
            return msgspec.structs.replace(outcome, problem=problem)
        first, others = reference.logits[0], reference.logits[1:]
        if all(self._row([first], [other]).passed for other in others):
            problem = "the windows are too similar to recognise logits of another window"
            return msgspec.structs.replace(outcome, problem=problem)
        return outcome

    def _row(self, ours: Sequence[Logits], theirs: Sequence[Logits]) -> ParityRow:
        precision = msgspec.convert(self.task.precision, Precision)
        return compare(
            "measured settings", ours, "plain settings", theirs,
            precision=precision, tolerance=LIMITS[precision],
        )  # fmt: skip

    def _timed(self, outcome: Outcome, session: OnnxCudaSession, reference: _Reference) -> Outcome:
        """Time both sessions in turns."""
        ours, plain = [], []
        for each in (session, reference.session):
            each.run(reference.order[0])  # a window with structures stays in the input buffer
        for _ in range(TURNS):
            plain.append(self._turn(reference.session))
            ours.append(self._turn(session))
        return msgspec.structs.replace(
            outcome,
            window_seconds=statistics.median(ours),
            plain_seconds=statistics.median(plain),
            plain_start_seconds=reference.start,
        )

    def _turn(self, session: OnnxCudaSession) -> float:
        """Return the seconds per window of a few runs on the input buffer."""
        runs = max(1, self.windows_per_turn // session.batch)
        session.gpu.finish(session.stream)
        begun = self.clock()
        for _ in range(runs):
            session.enqueue()
        session.gpu.finish(session.stream)
        return (self.clock() - begun) / (runs * session.batch)


def _answers(session: OnnxCudaSession, order: Sequence[Window]) -> list[Logits]:
    """Return the logits of each window, computed in full batches; the last may be smaller."""
    found: list[Logits] = []
    for first in range(0, len(order), session.batch):
        group = np.concatenate(order[first : first + session.batch])
        found += [logits[None] for logits in np.array(session.run(group), dtype=np.float32)]
    return found
