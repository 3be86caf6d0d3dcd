"""Time of each stage of a run, where stages run inside one another."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator


class StageClock:
    """Adds up seconds by stage. A stage's time excludes the stages that run inside it.

    Args:
        names: Stages to list even if they never run.
        timer: Seconds of what is to be measured: wall time, or `time.process_time`.

    Attributes:
        seconds: Seconds of each stage so far, in the order in which the stages first ended or were declared.
    """

    def __init__(self, *names: str, timer: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(names, 0.0)
        self._timer = timer
        self._inside: list[float] = []

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the block's time to `name`."""
        self._inside.append(0.0)
        start = self._timer()
        try:
            yield
        finally:
            elapsed = self._timer() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + elapsed - self._inside.pop()
            if self._inside:
                self._inside[-1] += elapsed
