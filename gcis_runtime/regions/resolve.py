"""Which part of a volume is worked on: a region, the body, what a coarse pass found, or all of it."""

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
"""Finds the structures of some graph channels in a coarse pass."""


@dataclass(frozen=True, kw_only=True)
class Area:
    """What part of a volume is wanted.

    Attributes:
        roi: A region; None: no limit.
        coarse: Only near structures that a coarse pass finds.
        body_crop: Only around the body.
    """

    roi: Roi | None = None
    coarse: bool = False
    body_crop: bool = False


@dataclass(frozen=True, kw_only=True)
class Found:
    """What part of a volume that is.

    Attributes:
        region: Outside it every label is background; None: no such limit.
        warnings: What the user should know.
        report: Where it comes from, ready for JSON; empty where nothing was asked for.
        seconds: Time of each search.
    """

    region: Region | None
    warnings: tuple[str, ...] = ()
    report: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    def gain_warnings(self, skipped: int) -> tuple[str, ...]:
        """Say where a coarse pass cost time and saved none.

        Args:
            skipped: Windows that were left out.
        """
        if skipped or self.region is None or not {"coarse", "roi_structure"} & set(self.report):
            return ()
        return ("no window could be left out: without a coarse pass this would be faster, and exact",)


def find_area(volume: Volume, area: Area, channels: Sequence[int], locate: Locate) -> Found:
    """Find the part of a volume that is wanted.

    Args:
        volume: The image.
        area: What is wanted.
        channels: Graph channels of the structures that are segmented.
        locate: Runs a coarse pass.

    Raises:
        ImageError: A region holds nothing of the image.
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
        return Found(region=None, warnings=tuple(warnings), report=report, seconds=seconds)
    region = regions[0]
    for other in regions[1:]:
        region = region.intersection(other)
    report |= {"within": region.origin, "box": region.bounds(), "boxes": len(region.boxes)}
    report["outside"] = "background"
    return Found(region=region, warnings=tuple(warnings), report=report, seconds=seconds)
