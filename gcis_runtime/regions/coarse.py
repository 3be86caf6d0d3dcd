"""Locate structures in a coarse pass, so that only their surroundings are segmented at full resolution.

The coarse pass uses the same bundle on a grid of larger voxels, or another bundle. If it misses a structure,
the whole volume is segmented at full resolution.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from gcis_runtime.bundles.manifest import Label, Manifest
from gcis_runtime.errors import OutputError, PromptError
from gcis_runtime.grids.box import Box, dilated, positive_box
from gcis_runtime.grids.grid_transform import plan_grid
from gcis_runtime.images.volume import Volume
from gcis_runtime.regions.region import Region
from gcis_runtime.spec import PreprocessSpec
from gcis_runtime.structures.match import match_prompt

DEFAULT_FACTOR = 2.0
_MARGIN = 10.0
_VOXELS = 2.0
"""Boxes are extended by 10 mm plus two coarse voxels: the coarse pass locates a surface within one voxel."""
_LARGEST_VOXEL = 50.0
"""Largest voxel size of a coarse grid in mm."""


@dataclass(frozen=True, kw_only=True)
class Coarse:
    """Result of a coarse pass.

    Attributes:
        boxes: Name and extended box of each structure that was found, in voxels of the file.
        missing: Names of the structures that were not found.
        how: Description of the coarse pass for users.
        seconds: Duration.
        windows: Number of windows.
    """

    boxes: tuple[tuple[str, Box], ...]
    missing: tuple[str, ...]
    how: str
    seconds: float
    windows: int

    @property
    def region(self) -> Region | None:
        """Region of the boxes; None, which means the whole volume, if a structure was missed."""
        if self.missing:
            return None
        names = ", ".join(name for name, _ in self.boxes)
        return Region(boxes=tuple(box for _, box in self.boxes), origin=f"near {names}")

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warnings for the user."""
        if not self.missing:
            return ()
        return (f"the coarse pass missed {', '.join(self.missing)}: the whole volume was refined",)

    def report(self) -> dict[str, Any]:
        """Return a description ready for JSON."""
        return {
            "how": self.how,
            "seconds": round(self.seconds, 4),
            "windows": self.windows,
            "found": [
                {"name": name, "box": [[part.start, part.stop] for part in box]} for name, box in self.boxes
            ],
            "missing": list(self.missing),
        }


def check_factor(factor: object) -> float:
    """Return a valid factor of a coarse pass.

    Raises:
        OutputError: It is not a number above 1 and at most 16.
    """
    number = float(factor) if isinstance(factor, int | float | np.number) else np.nan
    if not 1.0 < number <= 16.0:
        raise OutputError(
            "not a factor of a coarse pass",
            received=repr(factor),
            expected="more than 1, at most 16: how much larger its voxels are",
        )
    return number


def coarse_spec(volume: Volume, spec: PreprocessSpec, factor: float) -> PreprocessSpec:
    """Return a bundle's preprocessing with voxels `factor` times as large.

    Args:
        volume: The image.
        spec: Preprocessing of the bundle.
        factor: Ratio of the voxel sizes, above 1 and at most 16.

    Raises:
        OutputError: The factor is out of range, or voxels would be larger than 50 mm.
    """
    grid = plan_grid(volume.shape, volume.affine, spec)
    x, y, z = (float(s) * check_factor(factor) for s in np.linalg.norm(grid.affine[:3, :3], axis=0))
    if max(x, y, z) > _LARGEST_VOXEL:
        raise OutputError(
            "the coarse grid is too coarse",
            received=f"voxels of {max(x, y, z):.0f} mm",
            expected=f"at most {_LARGEST_VOXEL:g} mm",
            fix="Use a smaller factor with --coarse.",
        )
    return msgspec.structs.replace(spec, spacing=(x, y, z))


def matching_labels(wanted: Sequence[Label], manifest: Manifest) -> tuple[Label, ...]:
    """Return the labels of another bundle that have the name or prompt of the wanted labels.

    Raises:
        PromptError: The other bundle lacks a structure.
    """
    found = []
    for label in wanted:
        names = {label.name.casefold(), label.prompt.casefold()}
        same = [o for o in manifest.labels if names & {o.name.casefold(), o.prompt.casefold()}]
        if not same:
            index = match_prompt(label.prompt, [(o.name, o.prompt) for o in manifest.labels])
            same = [] if index is None else [manifest.labels[index]]
        if not same:
            raise PromptError(
                f"the coarse bundle {manifest.name!r} lacks a structure",
                received=", ".join(o.name for o in manifest.labels),
                expected=label.name,
                fix="Name its structures with --prompt, or use --coarse 2.",
            )
        found.append(same[0])
    return tuple(found)


def locate(
    volume: Volume,
    run: Callable[[], tuple[NDArray[Any], int]],
    names: Mapping[int, str],
    *,
    how: str,
    spec: PreprocessSpec,
) -> Coarse:
    """Run a coarse pass and return the boxes of structures.

    Args:
        volume: The image.
        run: Function that returns a label map (X, Y, Z) on the grid of the image and its number of windows.
        names: Name of each label value to locate.
        how: Description of the coarse pass for users.
        spec: Preprocessing of the coarse pass.
    """
    begun = time.perf_counter()
    labels, windows = run()
    voxel_mm = max(volume.spacing if spec.spacing is None else spec.spacing)
    margin = _MARGIN + _VOXELS * voxel_mm
    boxes, missing = [], []
    for value, name in names.items():
        box = positive_box(labels == value)
        if box is None:
            missing.append(name)
        else:
            boxes.append((name, dilated(box, volume.shape, volume.spacing, margin)))
    return Coarse(
        boxes=tuple(boxes),
        missing=tuple(missing),
        how=how,
        seconds=time.perf_counter() - begun,
        windows=windows,
    )
