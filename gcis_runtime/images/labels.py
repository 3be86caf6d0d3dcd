"""Read label maps and masks: whole values from 0 to 65535 on a known grid, from every readable format."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.errors import ImageError
from gcis_runtime.images.files import as_path, read_decoded
from gcis_runtime.images.grid import Grid, GridLike, check_same_grid
from gcis_runtime.images.volume import Decoded
from gcis_runtime.spec import label_dtype

MAX_LABEL = 65535
"""Largest label value; label maps are written as uint16 at most."""
_ROUNDING = 0.01
"""Accepted distance from a whole number: float32 arithmetic and 16-bit scale factors stay below it."""
_COARSEST = 0.25
"""Upper limit of the accepted distance with a scale factor, which rounds stored values to its multiples."""

LabelArray = NDArray[np.uint8 | np.uint16]


@dataclass(frozen=True, kw_only=True, eq=False)
class LabelMap:
    """A label map.

    Attributes:
        array: Label values, shape (X, Y, Z) in file order, uint8, or uint16 when values exceed 255.
        affine: (4, 4) float64, voxel index to RAS+ position in mm.
    """

    array: LabelArray
    affine: NDArray[np.float64]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along X, Y, Z."""
        x, y, z = self.array.shape
        return x, y, z


def read_labels(path: str | os.PathLike[str], *, like: GridLike | None = None) -> LabelMap:
    """Read a label map or a mask: NIfTI, or by suffix NRRD and MetaImage.

    The formats and rules are those of `files.read_volume`: a 4-D file with one volume is accepted, and scale
    factors are applied. Values are rounded, so that label maps saved as floats or with a scale factor are
    valid.

    Args:
        path: The file.
        like: The image whose grid the label map must have; None accepts any grid.

    Raises:
        ImageError: See `files.read_volume`; also where the label map is on a different grid from `like`, or
            has values that are not finite, not whole, negative or above `MAX_LABEL`.
    """
    path = as_path(path)
    decoded = read_decoded(path)
    if like is not None:
        found = Grid(shape=decoded.array.shape, affine=decoded.affine)
        check_same_grid(like, found, name=str(path))
    try:
        return LabelMap(array=_whole_values(decoded), affine=decoded.affine)
    except ImageError as error:
        raise error.named(path) from error


def _whole_values(decoded: Decoded) -> LabelArray:
    """Round values to label values, plane by plane.

    Raises:
        ImageError: A value is not a label value.
    """
    array, rounding = decoded.array, _rounding(decoded.slope)
    highest = 0
    for plane in np.moveaxis(array, -1, 0):
        if _wrong(plane, rounding).any():
            raise _refusal(array, rounding)
        highest = max(highest, round(float(plane.max())))
    whole: LabelArray = np.empty_like(array, dtype=label_dtype(highest))
    for z in range(array.shape[-1]):
        plane = array[..., z]
        whole[..., z] = np.rint(plane) if plane.dtype.kind == "f" else plane
    return whole


def _rounding(slope: float | None) -> float:
    """Return the accepted distance from a whole number.

    A writer that scales whole values to a small integer type stores multiples of the slope, each up to half a
    slope from the value.
    """
    return _ROUNDING if slope is None else min(_ROUNDING + abs(slope) / 2, _COARSEST)


def _wrong(plane: NDArray[np.int16] | NDArray[np.float32], rounding: float) -> NDArray[np.bool_]:
    """Return the voxels of a plane whose values are not label values; NaN and infinity are not."""
    if plane.dtype.kind != "f":
        return np.asarray(plane < 0)
    within = (plane >= -rounding) & (plane <= MAX_LABEL + rounding)
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        within &= np.abs(plane - np.rint(plane)) <= rounding
    return ~within


def _refusal(array: NDArray[np.int16] | NDArray[np.float32], rounding: float) -> ImageError:
    """Return the error for an array with values that are not label values, naming the first voxel."""
    wrong = np.stack([_wrong(plane, rounding) for plane in np.moveaxis(array, -1, 0)], axis=-1)
    first = tuple(int(n) for n in np.unravel_index(int(wrong.argmax()), wrong.shape))
    value = float(array[first])
    if not np.isfinite(value):
        problem, fix = "that are not finite", "Replace them, for example with 0 (background)."
    elif abs(value - round(value)) > rounding:
        problem = "between whole numbers"
        fix = "Resample label maps with nearest-neighbour interpolation; threshold probabilities."
    else:
        problem, fix = "outside the range of label values", "Renumber the labels; 0 is the background."
    return ImageError(
        f"the label map has values {problem}",
        received=f"{np.count_nonzero(wrong)} voxels, the first {value:g} at {first}",
        expected=f"whole numbers from 0 to {MAX_LABEL}",
        fix=fix,
    )
