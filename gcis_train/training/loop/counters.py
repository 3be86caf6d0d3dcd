"""Define the counters of a run, which its checkpoints store."""

from __future__ import annotations

import dataclasses
from typing import Any


@dataclasses.dataclass(kw_only=True)
class Counters:
    """Counters of a run.

    Attributes:
        epoch: Completed epochs; with `--max-minutes`, the last one may be shorter.
        step: Completed steps in the current epoch.
        best: Best mean validation Dice.
        loss: Sum of the losses of the current epoch.
        losses: Number of losses in that sum.
        steps: Steps per epoch.
        seconds: Time used of `--max-minutes`.
        completed_minutes: The `--max-minutes` that the run has completed.
    """

    epoch: int = 0
    step: int = 0
    best: float | None = None
    loss: float = 0.0
    losses: int = 0
    steps: int = 0
    seconds: float = 0.0
    completed_minutes: float = 0.0

    @classmethod
    def from_stored(cls, stored: dict[str, Any]) -> Counters:
        """Return the counters of a checkpoint of any version; unknown ones are ignored."""
        known = {f.name for f in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in stored.items() if name in known})

    def end_epoch(self) -> None:
        """Count a completed epoch."""
        self.epoch, self.step, self.loss, self.losses = self.epoch + 1, 0, 0.0, 0
