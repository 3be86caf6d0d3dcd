"""Define `Grid`, the shape and the position of an image's voxels, and compare grids."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from gcis_runtime.errors import ImageError
from gcis_runtime.images.volume import Volume, check_affine, check_shape, corner_shift

TOLERANCE = 0.1
"""Largest distance between corresponding voxels of one grid, as a share of the smallest voxel edge."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """The shape of an image and the positions of its voxels.

    Attributes:
        shape: Voxels along X, Y, Z in file order.
        affine: (4, 4) float64, voxel index to RAS+ position in mm.

    Raises:
        ImageError: The shape is not that of one volume, or the affine is invalid.
    """

    shape: tuple[int, ...]
    affine: NDArray[np.float64]

    def __post_init__(self) -> None:
        check_shape(self.shape)
        check_affine(self.affine)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along X, Y, Z."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def orientation(self) -> str:
        """Axis codes, such as `RAS`."""
        return "".join(nib.aff2axcodes(self.affine))

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in mL; valid for sheared grids too."""
        return abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000.0


GridLike: TypeAlias = Grid | Volume
"""An object with the shape, affine and spacing of an image."""


def check_same_grid(image: GridLike, other: GridLike, *, name: str) -> None:
    """Raise an error unless another image, such as a label map, is on the grid of an image.

    Args:
        image: The image.
        other: The image to compare with it.
        name: Name of `other` for the message.

    Raises:
        ImageError: The shapes differ, or corresponding voxels are further apart than `TOLERANCE`.
    """
    fix = "Resample it to the image, or pass the label map that belongs to this image."
    if other.shape != image.shape:
        raise ImageError(
            f"{name} has a different shape from the image",
            received=f"{other.shape}",
            expected=f"{image.shape}",
            fix=fix,
        )
    shift = corner_shift(image.shape, other.affine, image.affine)
    limit = TOLERANCE * min(image.spacing)
    if shift > limit:
        raise ImageError(
            f"{name} is on a different grid from the image",
            received=f"voxels up to {shift:.3g} mm from those of the image",
            expected=f"at most {limit:.3g} mm, {TOLERANCE:g} of the smallest voxel edge",
            fix=fix,
        )
