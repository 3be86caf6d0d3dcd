"""Measure the time per stage of a run; stages may be nested."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator


class StageClock:
    """A clock that sums seconds per stage. The time of a stage excludes the stages nested in it.

    Args:
        names: Stages to list even if they never run.
        timer: Returns the current time in seconds: wall time, or CPU time with `time.process_time`.

    Attributes:
        seconds: Seconds per stage so far, ordered by declaration, then by the first end of a stage.
    """

    def __init__(self, *names: str, timer: Callable[[], float] = time.perf_counter) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(names, 0.0)
        self._timer = timer
        self._inside: list[float] = []

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of the block to the stage `name`."""
        self._inside.append(0.0)
        start = self._timer()
        try:
            yield
        finally:
            elapsed = self._timer() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + elapsed - self._inside.pop()
            if self._inside:
                self._inside[-1] += elapsed
