"""Image and label files of a datalist: their grids, their values, and which formats can be read.

NIfTI is read through nibabel; NRRD and MetaImage (HaN-Seg publishes NRRD) through SimpleITK, whose patient
axes are turned from LPS to NIfTI's RAS. Axis order is the file's (X, Y, Z).
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import numpy.typing as npt

from gcis_runtime import Volume, read_volume
from gcis_runtime.errors import DataError, ImageError
from gcis_runtime.images.itk import load_simpleitk, ras_affine
from gcis_runtime.images.suffixes import ITK, READABLE
from gcis_train.data.datalist import Target

_TOLERANCE = 1e-2
"""Affines whose entries are this close (mm) place voxels alike: headers carry float32."""


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """Where a file's voxels lie.

    Attributes:
        shape: Voxels along the file's axes.
        affine: (4, 4), voxel index to RAS+ mm.
    """

    shape: tuple[int, ...]
    affine: npt.NDArray[np.float64]

    def matches(self, other: Grid) -> bool:
        """Tell whether both have the same shape and place voxels alike."""
        return self.shape == other.shape and np.allclose(self.affine, other.affine, atol=_TOLERANCE)

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size in mm along X, Y, Z."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0)
        return float(x), float(y), float(z)

    @property
    def orientation(self) -> str:
        """Axis codes, such as `RAS`."""
        return "".join(nib.aff2axcodes(self.affine))


def read_grid(path: Path) -> Grid:
    """Read a file's grid from its header.

    Raises:
        DataError: A format or a file that cannot be read.
    """
    try:
        if path.name.endswith(ITK):
            reader = _sitk(path).ImageFileReader()
            reader.SetFileName(str(path))
            reader.ReadImageInformation()
            return Grid(shape=tuple(int(n) for n in reader.GetSize()), affine=ras_affine(reader))
        _check_format(path)
        image = nib.load(path)
        return Grid(shape=tuple(image.shape), affine=np.asarray(image.affine, dtype=np.float64))
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{path.name} cannot be read", received=str(error)) from error


def read_array(path: Path) -> npt.NDArray[Any]:
    """Read a file's voxels, scaled as its header says.

    Raises:
        DataError: A format or a file that cannot be read.
    """
    try:
        if path.name.endswith(ITK):
            sitk = _sitk(path)
            # SimpleITK's arrays are Z, Y, X.
            return np.ascontiguousarray(sitk.GetArrayFromImage(sitk.ReadImage(str(path))).T)
        _check_format(path)
        return np.asanyarray(nib.load(path).dataobj)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{path.name} cannot be read", received=str(error)) from error


def read_image(path: Path) -> Volume:
    """Read a CT in any of these formats as the runtime's volume, HU.

    Raises:
        DataError: A format that cannot be read.
        ImageError: A damaged file, or voxels or an affine that are no CT.
    """
    _check_format(path)
    return read_volume(path)


def read_mask(
    target: Target, *, read: Callable[[Path], npt.NDArray[Any]] = read_array
) -> npt.NDArray[np.bool_]:
    """Return a structure's mask on its files' grid: the union over its label files.

    Args:
        target: The structure.
        read: Gives a label file's voxels; one that remembers serves many structures of one file.

    Raises:
        DataError: A file that cannot be read, or files of different shapes.
    """
    mask: npt.NDArray[np.bool_] | None = None
    for path in target.labels:
        found = target.select(np.rint(read(path)))
        if mask is not None and found.shape != mask.shape:
            raise DataError(
                f"the label files of {target.prompt!r} have different shapes",
                received=f"{path.name} {found.shape}",
                expected=f"{mask.shape}",
                fix="Resample them to the image.",
            )
        mask = found if mask is None else mask | found
    if mask is None:
        raise DataError(f"{target.prompt!r} has no label file")
    return mask


def masks_of(
    targets: Sequence[Target], read: Callable[[Path], npt.NDArray[Any]]
) -> Iterator[npt.NDArray[np.bool_]]:
    """Yield each structure's mask, in order.

    Args:
        targets: Structures of one case.
        read: From a label file to its whole values. Each file is read once, and its values are kept only
            until the last structure that needs them.
    """
    uses = Counter(path for target in targets for path in target.labels)
    values: dict[Path, npt.NDArray[Any]] = {}
    for target in targets:
        parts = []
        for path in target.labels:
            if path not in values:
                values[path] = read(path)
            parts.append(target.select(values[path]))
            uses[path] -= 1
            if not uses[path]:
                del values[path]
        yield np.logical_or.reduce(parts)


def _check_format(path: Path) -> None:
    if not path.name.endswith(READABLE):
        raise DataError(
            f"{path.name} has a format that training does not read",
            expected=f"one of {', '.join(READABLE)}",
            fix="Convert it to NIfTI: `dcm2niix -z y -o OUT DICOM_FOLDER` for DICOM, "
            "`SimpleITK.WriteImage(SimpleITK.ReadImage(FILE), 'x.nii.gz')` for what SimpleITK reads.",
        )


def _sitk(path: Path) -> Any:
    """Import SimpleITK, which only these formats need."""
    try:
        return load_simpleitk(path)
    except ImageError as error:
        raise DataError(
            error.message, received=error.received, expected=error.expected, fix=error.fix
        ) from error
