"""A CT volume: voxels in file order and where they lie in the patient."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gcis_runtime.errors import ImageError

MAX_VOXELS = 2**31
"""More voxels than any scanner writes (1024 x 1024 x 2048); larger headers are taken for damage."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Volume:
    """A three-dimensional CT image. Valid, or it does not exist.

    Attributes:
        array: Intensities in HU, shape (X, Y, Z) in file order, int16 or float32, all finite.
        affine: (4, 4) float64, voxel index to RAS+ position in mm, invertible.
        header: The NIfTI header that the volume was read with, so that a label map can be written with
            exactly its geometry; None for a volume made in memory.
        notes: What the reader found odd without refusing the image.
    """

    array: NDArray[Any]
    affine: NDArray[np.float64]
    header: Any = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_shape(tuple(self.array.shape))
        if self.array.dtype not in (np.dtype(np.int16), np.dtype(np.float32)):
            raise ImageError(
                "the voxels have an unsupported type",
                received=str(self.array.dtype),
                expected="int16 or float32",
                fix="Use Volume.from_array, which converts.",
            )
        check_finite(self.array)
        check_affine(self.affine)

    @classmethod
    def from_array(cls, array: NDArray[Any], *, affine: ArrayLike) -> Volume:
        """Make a volume from an array in memory.

        Args:
            array: HU, shape (X, Y, Z), of any real type.
            affine: (4, 4), voxel index to RAS+ mm.

        Raises:
            ImageError: Wrong shape, type, non-finite voxels or a singular affine.
        """
        array = np.asarray(array)
        if array.dtype.kind not in "biuf":
            raise ImageError(
                "the voxels are not real numbers", received=str(array.dtype), expected="integers or floats"
            )
        try:
            placed = np.array(affine).astype(np.float64, casting="safe")  # no texts, no complex numbers
        except (TypeError, ValueError) as error:
            raise ImageError(
                "the affine is not a finite 4 x 4 affine matrix", received=" ".join(str(affine).split())
            ) from error
        return cls(array=to_lean(array), affine=placed)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along X, Y, Z."""
        x, y, z = self.array.shape
        return x, y, z

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Distance in mm between voxel centres along X, Y, Z."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in mL; right for sheared grids too."""
        return abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000.0


def to_lean(array: NDArray[Any]) -> NDArray[Any]:
    """Return `array` as int16 where every value of its type fits, else as float32."""
    if np.can_cast(array.dtype, np.int16):
        return array.astype(np.int16, copy=False)
    with np.errstate(over="ignore"):  # beyond float32 becomes infinite, and is then refused as non-finite
        return array.astype(np.float32, copy=False)


def check_file(path: Path) -> None:
    """Refuse what is not a file: opening a named pipe, for one, would wait for ever.

    Raises:
        ImageError: Nothing, a folder, a pipe or a device has that name.
    """
    if path.is_dir():
        raise ImageError(f"{path} is a folder", expected="an image file", fix="Name the file in it.")
    if not path.exists():
        raise ImageError(f"{path} does not exist", expected="an image file", fix="Check the path.")
    if not path.is_file():
        raise ImageError(
            f"{path} is not a regular file",
            received="a pipe or a device",
            expected="an image file",
            fix="Save it to a file first.",
        )


def corner_shift(shape: tuple[int, ...], one: NDArray[Any], two: NDArray[Any]) -> float:
    """Return how far apart two affines put the corners of a grid at most, in mm.

    Args:
        shape: The grid (X, Y, Z).
        one: (4, 4), voxel index to mm.
        two: The same.
    """
    corners = np.array([[x, y, z, 1] for x in (0, 1) for y in (0, 1) for z in (0, 1)], dtype=np.float64)
    corners[:, :3] *= np.array(shape) - 1.0
    return float(np.linalg.norm((corners @ (one - two).T)[:, :3], axis=1).max())


def spatial_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Leave out axes beyond the third that have length 1: a file may say so that it holds one volume."""
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def one_volume(array: NDArray[Any]) -> NDArray[Any]:
    """Return a view of an array without the axes that `spatial_shape` leaves out."""
    for _ in range(array.ndim - len(spatial_shape(array.shape))):
        array = array[..., 0]
    return array


def check_shape(shape: tuple[int, ...]) -> None:
    """Refuse what is not a 3-D image of plausible size.

    Raises:
        ImageError: Not three axes, an empty axis, or more than `MAX_VOXELS` voxels.
    """
    text = " x ".join(map(str, shape)) + " voxels"
    if len(shape) != 3:
        raise ImageError(
            "the image is not three-dimensional",
            received=f"{len(shape)} axes ({text})",
            expected="one volume with three axes",
            fix="Split it and pass one volume at a time.",
        )
    if min(shape) < 1:
        raise ImageError("the image is empty", received=text, expected="at least one voxel along each axis")
    if int(np.prod(shape, dtype=np.float64)) > MAX_VOXELS:
        raise ImageError(
            "the image's size is implausible",
            received=text,
            expected=f"at most {MAX_VOXELS} voxels",
            fix="Check the header's dim field.",
        )


def check_finite(array: NDArray[Any]) -> None:
    """Refuse NaN and infinity.

    Raises:
        ImageError: Names how many voxels are not finite.
    """
    if array.dtype.kind != "f":
        return
    bad = sum(int(plane.size - np.count_nonzero(np.isfinite(plane))) for plane in np.moveaxis(array, -1, 0))
    if bad:
        raise ImageError(
            "the image has voxels that are not finite",
            received=f"{bad} of {array.size} voxels NaN or infinite",
            expected="HU values",
            fix="Replace them, for example by -1024 (air).",
        )


def check_affine(affine: NDArray[Any]) -> None:
    """Refuse an affine that does not place voxels in space.

    Raises:
        ImageError: Wrong shape, non-finite, singular, or voxels outside 0.001 to 1000 mm.
    """
    fix = "Check the header's sform, qform and pixdim."
    if affine.shape != (4, 4) or not np.isfinite(affine).all() or not np.allclose(affine[3], (0, 0, 0, 1)):
        raise ImageError(
            "the affine is not a finite 4 x 4 affine matrix", received=f"{affine.tolist()}", fix=fix
        )
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    if not ((spacing > 1e-3) & (spacing < 1e3)).all():
        text = ", ".join(f"{s:g}" for s in spacing)
        raise ImageError(
            "the voxel size is implausible",
            received=f"{text} mm",
            expected="0.001 to 1000 mm along each axis",
            fix=fix,
        )
    # Relative to the voxel's own size: a volume under 1 % of the box of its edges is a grid folded flat.
    share = abs(np.linalg.det(affine[:3, :3])) / float(np.prod(spacing))
    if share < 1e-2:
        raise ImageError(
            "the affine is singular",
            received=f"axes that span {share:.2g} of a box",
            expected="three independent axes",
            fix=fix,
        )
