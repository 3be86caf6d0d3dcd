"""Time of each stage of a run, where stages run inside one another."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator


class StageClock:
    """Adds up seconds by stage. A stage's time excludes the stages that run inside it.

    Attributes:
        seconds: Seconds of each stage so far, in the order in which the stages first ended or were declared.
    """

    def __init__(self, *names: str) -> None:
        self.seconds: dict[str, float] = dict.fromkeys(names, 0.0)
        self._inside: list[float] = []

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the block's time to `name`."""
        self._inside.append(0.0)
        start = time.perf_counter()
        try:
            yield
        finally:
            elapsed = time.perf_counter() - start
            self.seconds[name] = self.seconds.get(name, 0.0) + elapsed - self._inside.pop()
            if self._inside:
                self._inside[-1] += elapsed
