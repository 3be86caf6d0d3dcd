"""Determine the part of a volume to segment: a region, the body, or the result of a coarse pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gcis_runtime.images.volume import Volume
from gcis_runtime.regions.body import body_region
from gcis_runtime.regions.coarse import Coarse
from gcis_runtime.regions.region import Region
from gcis_runtime.regions.roi import Roi, StructureRoi

Locate = Callable[[Sequence[int]], Coarse]
"""Function that locates the structures of graph channels in a coarse pass."""


@dataclass(frozen=True, kw_only=True)
class Area:
    """Requested part of a volume.

    Attributes:
        roi: Region of interest; None for no limit.
        coarse: Segment only near structures that a coarse pass finds.
        body_crop: Segment only the body.
    """

    roi: Roi | None = None
    coarse: bool = False
    body_crop: bool = False


@dataclass(frozen=True, kw_only=True)
class ResolvedArea:
    """Part of a volume to segment.

    Attributes:
        region: Region outside which every label is background; None for no limit.
        warnings: Warnings for the user.
        report: Description of the region, ready for JSON; empty if no part was requested.
        seconds: Seconds per search: `coarse`, `body`.
    """

    region: Region | None
    warnings: tuple[str, ...] = ()
    report: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def gain_warnings(self, skipped: int) -> tuple[str, ...]:
        """Return a warning if a coarse pass did not save any window.

        Args:
            skipped: Number of windows outside the region.
        """
        if skipped or self.region is None or not {"coarse", "roi_structure"} & set(self.report):
            return ()
        return ("the coarse pass saved no window: without it, the run is faster and exact",)


def find_area(volume: Volume, area: Area, channels: Sequence[int], locate: Locate) -> ResolvedArea:
    """Determine the part of a volume to segment.

    Args:
        volume: The image.
        area: The requested part.
        channels: Graph channels of the structures to segment.
        locate: Function that runs a coarse pass.

    Raises:
        ImageError: The region of interest lies outside the image.
        PromptError: The coarse bundle lacks a structure.
        EngineError: A coarse pass failed.
    """
    regions: list[Region] = []
    warnings: list[str] = []
    seconds: dict[str, float] = {}
    report: dict[str, Any] = {}

    def look(name: str, passed: Coarse) -> None:
        report[name] = passed.report()
        warnings.extend(passed.warnings)
        seconds["coarse"] = seconds.get("coarse", 0.0) + passed.seconds
        if passed.region is not None:
            regions.append(passed.region)

    if isinstance(area.roi, StructureRoi):
        look("roi_structure", locate((area.roi.channel,)))
    elif area.roi is not None:
        regions.append(area.roi.region(volume))
    if area.body_crop:
        begun = time.perf_counter()
        body = body_region(volume)
        seconds["body"] = time.perf_counter() - begun
        if body is None:
            warnings.append("no body was found to crop to: the whole volume was used")
        else:
            regions.append(body)
    if area.coarse:
        look("coarse", locate(channels))
    if not regions:
        return ResolvedArea(region=None, warnings=tuple(warnings), report=report, seconds=seconds)
    region = regions[0]
    for other in regions[1:]:
        region = region.intersection(other)
    report |= {"within": region.origin, "box": region.bounds(), "boxes": len(region.boxes)}
    report["outside"] = "background"
    return ResolvedArea(region=region, warnings=tuple(warnings), report=report, seconds=seconds)
