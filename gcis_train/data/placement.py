"""Place the voxels of a label file on the grid of its image, by the header of the label file or of the image.

Some published label files have headers that differ from those of their images (LiTS, TCIA Pancreas-CT),
although their voxels belong to the voxels of the image one by one. Such files are read with the geometry of
the image.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from gcis_runtime.errors import ImageError
from gcis_runtime.images.files import read_grid
from gcis_runtime.images.grid import Grid, GridLike, check_same_grid
from gcis_runtime.images.labels import read_labels
from gcis_runtime.images.volume import corner_shift

LabelGeometry = Literal["file", "image"]
"""The header that places the voxels of a label file: its own (`file`) or that of the image (`image`)."""

AXES = "xyz"
"""Letters of the three axes of a file, in order."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placement:
    """How the voxels of a label file lie on the grid of its image.

    Attributes:
        geometry: `file` requires the grid of the label file to be that of the image; `image` requires the
            same shape only, and ignores position and orientation in the header of the label file.
        flip: Axes along which the voxels of the label file are reversed, as letters of `AXES`.

    Raises:
        ValueError: `flip` has other or repeated letters, or is used with the geometry `file`.
    """

    geometry: LabelGeometry = "file"
    flip: str = ""

    def __post_init__(self) -> None:
        if not set(self.flip) <= set(AXES) or len(set(self.flip)) < len(self.flip):
            raise ValueError(f"label_flip {self.flip!r} is not made of the letters x, y and z")
        if self.flip and self.geometry == "file":
            raise ValueError(f"label_flip {self.flip!r} without label_geometry 'image'")

    def check(self, path: Path, image: GridLike) -> float:
        """Compare the header of a label file with the grid of its image.

        Returns:
            Largest distance in mm between corresponding voxels according to both headers.

        Raises:
            ImageError: The file cannot be read, its shape differs, or with the geometry `file` its grid does.
        """
        grid = read_grid(path)
        if self.geometry == "file":
            check_same_grid(image, grid, name=f"label {path.name}")
        _check_shape(path, grid, image)
        return corner_shift(image.shape, grid.affine, image.affine)

    def read(self, path: Path, image: GridLike) -> npt.NDArray[Any]:
        """Return the label values of a file on the grid of its image, (X, Y, Z).

        Raises:
            ImageError: See `read_labels`; the shape differs, or with the geometry `file` the grid does.
        """
        if self.geometry == "file":
            return read_labels(path, like=image).array
        found = read_labels(path)
        _check_shape(path, Grid(shape=found.shape, affine=found.affine), image)
        reversed_axes = tuple(AXES.index(letter) for letter in self.flip)
        return np.asarray(np.flip(found.array, reversed_axes))


BY_FILE = Placement()
"""The placement of rows that do not name another."""


def _check_shape(path: Path, grid: Grid, image: GridLike) -> None:
    if grid.shape != image.shape:
        raise ImageError(
            f"label {path.name} has a different shape from the image",
            received=f"{grid.shape}",
            expected=f"{image.shape}",
            fix="label_geometry 'image' ignores the position of the label file, but not its shape: pass the "
            "label map that belongs to this image.",
        )
