"""Measure the time that a run has used, and decide how much of `--max-minutes` is left for training."""

from __future__ import annotations

import math
from collections.abc import Callable

from gcis_runtime.errors import DataError
from gcis_train.training.distributed import Processes

_MARGIN = 1.1
"""Factor on measured seconds, for a validation or checkpoint that takes longer than the last one."""


class Budget:
    """Time of a run, the same for all of its processes.

    Args:
        minutes: Time of the run; 0 means no limit.
        clock: Seconds of a monotonic clock.
        processes: Processes of the training; the first one measures.
        checkpoints: Checkpoints to reserve time for: latest, best and latest of the last validation, one of
            `save_minutes` that is not yet counted, and that of `save_every`.

    Attributes:
        used: Seconds since the start, without interruptions.
    """

    def __init__(
        self, minutes: float, clock: Callable[[], float], processes: Processes, *, checkpoints: int
    ) -> None:
        self.limited = minutes > 0
        self.used = 0.0
        self._limit, self._clock, self._processes = 60 * minutes, clock, processes
        self._checkpoints = checkpoints
        self._at: float | None = None
        self._last_step = 0.0
        self._validation = self._checkpoint = 0.0

    def start(self) -> None:
        """Start or continue the clock; time before this call does not count."""
        self._at = self._clock()

    def tick(self) -> float:
        """Count the time since the last call, and return it in seconds; 0 without a limit.

        Raises:
            ProcessError: Another process has ended.
        """
        if not self.limited or self._at is None:
            return 0.0
        now = self._clock()
        passed = self._processes.agree(now - self._at)
        self._at = now
        self.used += passed
        return passed

    def step(self) -> None:
        """Count the time of a step."""
        self._last_step = self.tick()

    def reserve(self, *, validation: float | None = None, checkpoint: float | None = None) -> None:
        """Reserve the measured seconds of a validation or a checkpoint for the end of the run."""
        self._validation = self._validation if validation is None else _MARGIN * validation
        self._checkpoint = self._checkpoint if checkpoint is None else _MARGIN * checkpoint

    def check(self, *, new: bool) -> None:
        """Check that a new run has time for training; one that has trained steps ends instead.

        Raises:
            DataError: The reserved time leaves none for training.
        """
        if new and self.reserved >= self._limit:
            raise DataError(
                "--max-minutes leaves no time for training",
                received=f"{self._limit / 60:.2g} minutes",
                expected=f"more than the {self.reserved / 60:.2g} minutes of validation and checkpoints",
                fix="Raise --max-minutes, or lower --validation-cases.",
            )

    @property
    def reserved(self) -> float:
        """Seconds that are reserved for the last validation and all checkpoints until the end."""
        return self._validation + self._checkpoints * self._checkpoint

    @property
    def text(self) -> str:
        """Reserved and limiting time, for a message."""
        return f"{self.reserved:.0f} s of {self._limit / 60:g} minutes"

    @property
    def done(self) -> float:
        """Completed share of the time for training, in [0, 1)."""
        share = self.used / max(self._limit - self.reserved, 1e-9)
        return min(share, math.nextafter(1.0, 0.0))

    @property
    def over(self) -> bool:
        """Whether another step would use reserved time."""
        return self.limited and self.used + self._last_step > self._limit - self.reserved

    @property
    def has_time_to_validate(self) -> bool:
        """Whether a validation before the last one leaves time for training."""
        return not self.limited or self.used + 2 * self.reserved < self._limit
