"""Parse a region of interest (`--roi`): voxel ranges, the box around a mask, or a structure."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.bundles.manifest import Manifest
from gcis_runtime.errors import ImageError, PromptError
from gcis_runtime.grids.box import dilated
from gcis_runtime.images.labels import LabelMap, read_labels
from gcis_runtime.images.suffixes import suffix_of
from gcis_runtime.images.volume import Volume
from gcis_runtime.regions.region import Region
from gcis_runtime.structures.match import match_prompt

MASK_MARGIN = 10.0
"""Margin in mm around a mask, because masks are often drawn close to the structure."""
_RANGE = re.compile(r"\s*(\d*)\s*:\s*(\d*)\s*")
_EXPECTED = "x0:x1,y0:y1,z0:z1, a mask file, or the name of a structure"
_ROUNDING = 1e-6


@dataclass(frozen=True, kw_only=True)
class BoxRoi:
    """Voxel ranges along the axes of the file.

    Attributes:
        ranges: First index and end along X, Y, Z; None for an open end.
        text: The ranges as the user wrote them.
    """

    ranges: tuple[tuple[int | None, int | None], ...]
    text: str

    def region(self, volume: Volume) -> Region:
        """Return the region of a volume.

        Raises:
            ImageError: No voxel of the volume is inside.
        """
        x, y, z = (
            slice(min(first or 0, n), n if end is None else min(end, n))
            for (first, end), n in zip(self.ranges, volume.shape, strict=True)
        )
        if any(part.start >= part.stop for part in (x, y, z)):
            raise ImageError(
                "the region of interest contains no voxel of the image",
                received=self.text,
                expected="ranges within " + ",".join(f"0:{n}" for n in volume.shape),
                fix="Count voxels of the file from 0; the end of a range is exclusive.",
            )
        return Region(boxes=((x, y, z),), origin=self.text)


@dataclass(frozen=True, kw_only=True)
class MaskRoi:
    """Box around a mask on any grid, with a margin.

    Attributes:
        path: Image file whose nonzero voxels form the mask.
    """

    path: Path

    def region(self, volume: Volume) -> Region:
        """Return the box of a volume that holds every voxel of the mask, extended by `MASK_MARGIN`.

        Raises:
            ImageError: The mask cannot be read, is empty, or lies outside the volume.
        """
        mask = read_labels(self.path)
        extent = _extent_in(mask, volume.affine)
        if extent is None:
            raise ImageError(
                f"{self.path} is an empty mask",
                received="no nonzero voxel",
                expected="at least one nonzero voxel",
                fix="Mark at least one voxel.",
            )
        ranges = [
            (int(np.floor(low + 0.5 + _ROUNDING)), int(np.ceil(high - 0.5 - _ROUNDING)) + 1)
            for low, high in extent
        ]
        if any(end <= 0 or first >= n for (first, end), n in zip(ranges, volume.shape, strict=True)):
            raise ImageError(
                f"{self.path} lies outside the image",
                received=f"voxels {', '.join(f'{a}:{b}' for a, b in ranges)} of the image grid",
                expected="within " + ",".join(f"0:{n}" for n in volume.shape),
                fix="Use a mask drawn on an image of the same patient position.",
            )
        x, y, z = (slice(first, end) for first, end in ranges)
        box = dilated((x, y, z), volume.shape, volume.spacing, MASK_MARGIN)
        return Region(boxes=(box,), origin=f"{self.path} and {MASK_MARGIN:g} mm")


@dataclass(frozen=True, kw_only=True)
class StructureRoi:
    """Box around a structure, located in a coarse pass.

    Attributes:
        channel: Graph channel of the structure.
    """

    channel: int


Roi = BoxRoi | MaskRoi | StructureRoi


def parse_roi(text: object, manifest: Manifest) -> Roi:
    """Parse a region of interest, without reading a mask.

    Args:
        text: `x0:x1,y0:y1,z0:z1` (each number is optional), a mask file (required for path objects), or the
            name or prompt of a structure.
        manifest: Manifest of the bundle, which names the structures.

    Raises:
        ImageError: There are not three ranges, a range is not increasing, or `text` is neither a string nor a
            path.
        PromptError: `text` is neither a file nor a structure.
    """
    if isinstance(text, os.PathLike):
        return MaskRoi(path=Path(text))
    if not isinstance(text, str):
        raise ImageError(
            "the region of interest is not a string", received=type(text).__name__, expected=_EXPECTED
        )
    if re.fullmatch(r"[\d\s:,]*[:,][\d\s:,]*", text):
        return _box(text)
    if suffix_of(Path(text)) or Path(text).exists():
        return MaskRoi(path=Path(text))
    wanted = text.strip().casefold()
    for channel, label in enumerate(manifest.labels):
        if wanted in {label.name.casefold(), label.prompt.casefold()}:
            return StructureRoi(channel=channel)
    found = match_prompt(text, [(label.name, label.prompt) for label in manifest.labels])
    if found is not None:
        return StructureRoi(channel=found)
    raise PromptError(
        "the region of interest is neither a structure of the bundle nor a file",
        received=repr(text),
        expected=f"{_EXPECTED}: {', '.join(label.name for label in manifest.labels)}",
        fix="Check the spelling with `gcis-bundle inspect`.",
    )


def _box(text: str) -> BoxRoi:
    found = [_RANGE.fullmatch(part) for part in text.split(",")]
    ranges = tuple((int(m[1]) if m[1] else None, int(m[2]) if m[2] else None) for m in found if m is not None)
    backwards = any(first is not None and end is not None and first >= end for first, end in ranges)
    if len(ranges) != len(found) or len(ranges) != 3 or backwards:
        raise ImageError(
            "the region of interest is not a box",
            received=repr(text),
            expected="three ranges x0:x1,y0:y1,z0:z1 of voxels, such as 100:300,:,40:",
            fix="The end of a range is exclusive; omit a number for an open end.",
        )
    return BoxRoi(ranges=ranges, text=text.replace(" ", ""))


def _extent_in(mask: LabelMap, affine: NDArray[np.float64]) -> list[tuple[float, float]] | None:
    """Return the extent of the voxels of a mask in the index space of another affine; None for an empty mask.

    The extent includes the whole voxels, not only their centres. It is computed plane by plane: the
    coordinates of all voxels of a large mask would take gigabytes.
    """
    to_other = np.linalg.solve(affine, mask.affine)
    half = np.abs(to_other[:3, :3]).sum(axis=1) / 2
    low, high = np.full(3, np.inf), np.full(3, -np.inf)
    for z in range(mask.shape[2]):
        x, y = np.nonzero(mask.array[:, :, z])
        if x.size:
            where = np.stack([x, y, np.full_like(x, z)], axis=1) @ to_other[:3, :3].T + to_other[:3, 3]
            low, high = np.minimum(low, where.min(axis=0)), np.maximum(high, where.max(axis=0))
    if not np.isfinite(low).all():
        return None
    return [(float(a), float(b)) for a, b in zip(low - half, high + half, strict=True)]
