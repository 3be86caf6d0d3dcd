"""Define how the series of DICOM studies are chosen and read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class DicomOptions:
    """How the series of a study are chosen and read.

    Attributes:
        series: SeriesNumber or SeriesInstanceUID of each series to segment; empty takes the only one.
        every: Segment all CT series.
        allow_irregular: Interpolate series with missing or unevenly spaced slices to a regular grid.
    """

    series: tuple[str, ...] = ()
    every: bool = False
    allow_irregular: bool = False
