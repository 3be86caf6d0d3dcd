"""Define how the series of DICOM studies are chosen and read, and how results are written as DICOM."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class DicomOptions:
    """How the series of a study are chosen and read, and how results are written.

    Attributes:
        series: SeriesNumber or SeriesInstanceUID of each series to segment; empty takes the only one.
        every: Segment all CT series.
        allow_irregular: Interpolate series with missing or unevenly spaced slices to a regular grid.
        seg_type: Type of segmentations: `"binary"`, which all viewers read, or `"labelmap"`.
        sr: Write the measurements as a structured report that refers to the segmentation.
        uid_root: Root of new UIDs; None derives UUID-based ones.
    """

    series: tuple[str, ...] = ()
    every: bool = False
    allow_irregular: bool = False
    seg_type: Literal["binary", "labelmap"] = "binary"
    sr: bool = False
    uid_root: str | None = None
