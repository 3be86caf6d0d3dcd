"""Describe the spread of a structure's volume over many cases, and find outliers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

LEAST_CASES = 8
"""Smallest number of volumes among which outliers are marked."""
LIMIT = 3.5
"""Largest modified z-score (Iglewicz and Hoaglin 1993) of a volume that is not an outlier."""
_ONE_ROW = 12
"""Largest number of dots in one row. More are drawn in three, so that they hide each other less."""
_WIDTH, _HEIGHT, _BORDER = 300, 34, 10


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A case in the drawing: position and whether it is an outlier."""

    x: float
    y: float
    outlier: bool
    text: str


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Volumes of a structure in mL over the cases in which it was found.

    Attributes:
        found: Number of cases with the structure.
        empty: Names of the cases without it.
        low: Smallest volume; None without cases.
        median: Median volume.
        high: Largest volume.
        outliers: Names of the cases with an unusual volume.
        dots: One dot per case.
        middle: Left and right border of the central half of the cases, and the median, in the drawing.
        size: Width and height of the drawing.
    """

    found: int
    empty: tuple[str, ...]
    low: float | None
    median: float | None
    high: float | None
    outliers: tuple[str, ...]
    dots: tuple[Dot, ...]
    middle: tuple[float, float, float]
    size: tuple[int, int] = (_WIDTH, _HEIGHT)


def spread_of(volumes: Mapping[str, float]) -> Spread:
    """Return the spread of a structure's volume.

    Args:
        volumes: Volume in mL by case; 0 where the structure was not found.
    """
    found = {name: ml for name, ml in volumes.items() if ml > 0}
    empty = tuple(name for name in volumes if name not in found)
    if not found:
        return Spread(
            found=0, empty=empty, low=None, median=None, high=None, outliers=(), dots=(), middle=(0, 0, 0)
        )
    values = np.array(list(found.values()))
    outliers = _outliers(found)
    low, high = float(values.min()), float(values.max())
    places = {name: _place(ml, low, high) for name, ml in found.items()}
    dots = tuple(
        Dot(
            x=places[name],
            y=_HEIGHT / 2 + (index % 3 - 1) * 5 * (len(found) > _ONE_ROW),
            outlier=name in outliers,
            text=f"{name}: {ml:.1f} mL",
        )
        for index, (name, ml) in enumerate(found.items())
    )
    first, median, third = (float(q) for q in np.percentile(values, (25, 50, 75)))
    return Spread(
        found=len(found), empty=empty, low=low, median=median, high=high, outliers=outliers, dots=dots,
        middle=(_place(first, low, high), _place(third, low, high), _place(median, low, high)),
    )  # fmt: skip


def _outliers(found: Mapping[str, float]) -> tuple[str, ...]:
    """Return the cases whose logarithm of the volume is far from the median.

    The unit is the median deviation. Logarithms make half and double the volume equally far.
    """
    if len(found) < LEAST_CASES:
        return ()
    logs = np.log(np.array(list(found.values())))
    distance = np.abs(logs - np.median(logs))
    scale = float(np.median(distance))
    if scale == 0:
        return ()
    far = 0.6745 * distance / scale > LIMIT
    return tuple(name for name, is_far in zip(found, far, strict=True) if is_far)


def _place(ml: float, low: float, high: float) -> float:
    share = 0.5 if high == low else (ml - low) / (high - low)
    return round(_BORDER + share * (_WIDTH - 2 * _BORDER), 1)
