"""Fit straight lines to measurements."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Line:
    """`y = intercept + slope x`, by least squares, and the exponent of `y ~ x ** exponent`.

    Attributes:
        slope: Slope.
        intercept: Intercept.
        r2: Share of the variance of y that the line explains; 1 if y does not vary.
        exponent: Slope of log y over log x; None if a value is not positive.
        points: Number of measurements.
    """

    slope: float
    intercept: float
    r2: float
    exponent: float | None
    points: int

    def at(self, x: float) -> float:
        """Return the value of the line at x."""
        return self.intercept + self.slope * x


def fit(x: Sequence[float], y: Sequence[float]) -> Line:
    """Fit a line by least squares.

    Raises:
        ValueError: There are fewer than two different x, or the lengths differ.
    """
    if len(set(x)) < 2 or len(x) != len(y):
        raise ValueError(f"a line needs two different x: received {len(set(x))} of {len(x)}, and {len(y)} y")
    xs, ys = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    slope, intercept = np.polyfit(xs, ys, 1)
    left, total = float(((ys - intercept - slope * xs) ** 2).sum()), float(((ys - ys.mean()) ** 2).sum())
    positive = bool((xs > 0).all() and (ys > 0).all())
    return Line(
        slope=float(slope),
        intercept=float(intercept),
        r2=1 - left / total if total else 1.0,
        exponent=float(np.polyfit(np.log(xs), np.log(ys), 1)[0]) if positive else None,
        points=len(x),
    )
