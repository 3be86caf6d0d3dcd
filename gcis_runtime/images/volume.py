"""Define `Volume`, a CT image with its position in the patient, and the checks that every image passes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gcis_runtime.errors import ImageError
from gcis_runtime.images.contents import refuse_folder, refuse_missing

MAX_VOXELS = 2**31
"""1024 x 1024 x 2048, more than any scanner writes; a header with a larger size is treated as damaged."""

MAX_POSITION = 1e6
"""mm; from about 1e12, sums of positions lose the fraction of a voxel."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Volume:
    """A three-dimensional CT image; the constructor refuses invalid voxels and geometry.

    Attributes:
        array: Intensities in HU, shape (X, Y, Z) in file order, int16 or float32, all finite.
        affine: (4, 4) float64, voxel index to RAS+ position in mm, invertible.
        header: The NIfTI header of the file, from which label maps take their exact geometry; None for
            other formats and for arrays in memory.
        notes: Irregularities of the file that did not prevent reading it.
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
        """Create a volume from an array in memory.

        Args:
            array: HU, shape (X, Y, Z), of any real type.
            affine: (4, 4), voxel index to RAS+ mm.

        Raises:
            ImageError: Wrong shape or type, non-finite voxels, or a singular affine.
        """
        array = np.asarray(array)
        if array.dtype.kind not in "biuf":
            raise ImageError(
                "the voxels are not real numbers", received=str(array.dtype), expected="integers or floats"
            )
        try:
            placed = np.array(affine).astype(np.float64, casting="safe")  # refuses text and complex
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
        """Volume of one voxel in mL; valid for sheared grids too."""
        return abs(float(np.linalg.det(self.affine[:3, :3]))) / 1000.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Decoded:
    """The contents of an image file with the scale of its header applied, before the values are checked.

    Attributes:
        array: Shape (X, Y, Z) in file order, int16 or float32; may hold NaN and infinity.
        affine: (4, 4) float64, voxel index to RAS+ position in mm.
        header: The NIfTI header; None for other formats.
        notes: Irregularities of the file that did not prevent reading it.
        slope: Scale factor that was applied to the stored values; None without one.
    """

    array: NDArray[Any]
    affine: NDArray[np.float64]
    header: Any = None
    notes: tuple[str, ...] = ()
    slope: float | None = None

    def volume(self, path: Path) -> Volume:
        """Return the contents as a CT volume.

        Raises:
            ImageError: Voxels that are not finite; the message begins with `path`.
        """
        try:
            return Volume(array=self.array, affine=self.affine, header=self.header, notes=self.notes)
        except ImageError as error:
            raise error.named(path) from error


def to_lean(array: NDArray[Any]) -> NDArray[Any]:
    """Return `array` as int16 where every value of its type fits, else as float32."""
    if np.can_cast(array.dtype, np.int16):
        return array.astype(np.int16, copy=False)
    with np.errstate(over="ignore"):  # values beyond float32 become infinite and are refused as non-finite
        return array.astype(np.float32, copy=False)


def check_file(path: Path) -> None:
    """Raise an error unless `path` is a regular file; opening a named pipe, for example, would block.

    Raises:
        ImageError: The path does not exist, or is a folder, a pipe or a device.
    """
    if path.is_dir():
        refuse_folder(path)
    if not path.exists():
        refuse_missing(path)
    if not path.is_file():
        raise ImageError(
            f"{path} is not a regular file",
            received="a pipe or a device",
            expected="an image file",
            fix="Save it to a file first.",
        )


def corner_shift(shape: tuple[int, ...], one: NDArray[Any], two: NDArray[Any]) -> float:
    """Return the largest distance in mm between the corners of a grid under two affines.

    Args:
        shape: Voxels along X, Y, Z.
        one: (4, 4), voxel index to mm.
        two: (4, 4), voxel index to mm.
    """
    corners = np.array([[x, y, z, 1] for x in (0, 1) for y in (0, 1) for z in (0, 1)], dtype=np.float64)
    corners[:, :3] *= np.array(shape) - 1.0
    return float(np.linalg.norm((corners @ (one - two).T)[:, :3], axis=1).max())


def spatial_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape without trailing axes of length 1 beyond the third (a 4-D file with one volume)."""
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def one_volume(array: NDArray[Any]) -> NDArray[Any]:
    """Return a view of an array without the trailing axes that `spatial_shape` removes."""
    for _ in range(array.ndim - len(spatial_shape(array.shape))):
        array = array[..., 0]
    return array


def check_shape(shape: tuple[int, ...]) -> None:
    """Raise an error unless the shape is that of a 3-D image of plausible size.

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
            "the image size is implausible",
            received=text,
            expected=f"at most {MAX_VOXELS} voxels",
            fix="Check the header's dim field.",
        )


def check_finite(array: NDArray[Any]) -> None:
    """Raise an error if an array has NaN or infinite voxels.

    Raises:
        ImageError: At least one voxel is not finite; the message gives their number.
    """
    if array.dtype.kind != "f":
        return
    bad = sum(int(plane.size - np.count_nonzero(np.isfinite(plane))) for plane in np.moveaxis(array, -1, 0))
    if bad:
        raise ImageError(
            "the image has voxels that are not finite",
            received=f"{bad} of {array.size} voxels NaN or infinite",
            expected="HU values",
            fix="Replace them, for example with -1024 (air).",
        )


def check_affine(affine: NDArray[Any]) -> None:
    """Raise an error unless an affine maps voxel indices to positions in space.

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
    if not (np.abs(affine[:3, 3]) <= MAX_POSITION).all():
        text = ", ".join(f"{p:g}" for p in affine[:3, 3])
        raise ImageError(
            "the position of the image is implausible",
            received=f"{text} mm",
            expected=f"at most {MAX_POSITION:g} mm along each axis",
            fix=fix,
        )
    # Relative to the voxel size: below 1 % of the box with the same edges, the axes are nearly coplanar.
    share = abs(np.linalg.det(affine[:3, :3])) / float(np.prod(spacing))
    if share < 1e-2:
        raise ImageError(
            "the affine is singular",
            received=f"a voxel with {share:.2g} of the volume of a box with the same edges",
            expected="three independent axes",
            fix=fix,
        )
