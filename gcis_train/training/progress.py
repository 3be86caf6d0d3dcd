"""Display the progress of a training: a live line on a terminal, otherwise one line per epoch."""

from __future__ import annotations

import sys
import time
from typing import Any, TextIO


class Progress:
    """Display of loss and remaining time.

    Args:
        stream: Output stream; the live line appears only on a terminal.
        shown: Whether to write anything; of several processes only the first one does.
    """

    def __init__(self, stream: TextIO = sys.stderr, *, shown: bool = True) -> None:
        self._stream = stream
        self._shown = shown
        self._live = shown and stream.isatty()
        self._begin: tuple[float, int] | None = None
        self._average: float | None = None

    def step(self, *, epoch: int, step: int, steps: int, loss: float | None) -> None:
        """Update the live line after a step."""
        now = time.monotonic()
        if self._begin is None:
            self._begin = (now, step)  # excluded from the rate, because it also waits for data
        if loss is not None:
            self._average = loss if self._average is None else 0.95 * self._average + 0.05 * loss
        if self._live:
            rate = (now - self._begin[0]) / max(step - self._begin[1], 1)
            shown = "-" if self._average is None else f"{self._average:.3f}"
            left = _clock(rate * (steps - step))
            line = f"epoch {epoch + 1}  step {step}/{steps}  loss {shown}  left {left}"
            self._stream.write(f"\r{line:<78}")
            self._stream.flush()

    def epoch(self, record: dict[str, Any]) -> None:
        """Log the metrics of a finished epoch."""
        parts = [f"epoch {record['epoch']}", f"{record['seconds']:.0f} s"]
        if record.get("loss") is not None:
            parts.append(f"loss {record['loss']:.4f}")
        if "windows_per_second" in record:
            parts.append(f"{record['windows_per_second']:.1f} windows/s")
        if "peak_memory_gb" in record:
            parts.append(f"peak {record['peak_memory_gb']:.1f} GB")
        if "dice" in record:
            each = ", ".join(f"{p} {d:.2f}" for p, d in record["dice_by_prompt"].items())
            parts.append(f"Dice {record['dice']:.3f} ({each})")
        self.log("  ".join(parts))

    def log(self, text: str) -> None:
        """Write a line of text; it replaces the live line."""
        if not self._shown:
            return
        self._stream.write(("\r" + " " * 78 + "\r" if self._live else "") + text + "\n")
        self._stream.flush()


def _clock(seconds: float) -> str:
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}"
