"""Write NRRD and MetaImage files and convert images through SimpleITK, between LPS and RAS.

SimpleITK is an optional dependency (`gcis[simpleitk]`), imported when such a file is written.
"""

from __future__ import annotations

import errno
import importlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.errors import ImageError
from gcis_runtime.images.volume import Volume, check_shape, one_volume
from gcis_runtime.system.atomic_files import replacing

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def load_simpleitk(path: Path) -> Any:
    """Import SimpleITK for a file that needs it.

    Raises:
        ImageError: SimpleITK is not installed.
    """
    try:
        return importlib.import_module("SimpleITK")
    except ImportError as error:
        raise ImageError(
            f"{path.name} needs SimpleITK",
            received="SimpleITK is not installed",
            fix='`pip install SimpleITK` (or "gcis[simpleitk]"), or convert the file to NIfTI.',
        ) from error


def ras_affine(image: Any) -> NDArray[np.float64]:
    """Return the affine (4, 4), voxel index to RAS+ mm, of a SimpleITK image or reader, whose axes are LPS.

    Axes beyond the third are ignored.
    """
    size = image.GetDimension()
    direction = np.asarray(image.GetDirection(), dtype=np.float64).reshape(size, size)[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = direction * np.asarray(image.GetSpacing()[:3], dtype=np.float64)
    affine[:3, 3] = image.GetOrigin()[:3]
    return _LPS @ affine


def volume_from_itk(image: Any) -> Volume:
    """Convert a SimpleITK image in HU to a volume; a 4-D image with one volume is accepted.

    Raises:
        ImageError: Several volumes, colour or complex or non-finite voxels, or an invalid affine.
    """
    sitk = importlib.import_module("SimpleITK")
    kind = image.GetPixelIDTypeAsString()
    if image.GetNumberOfComponentsPerPixel() != 1 or "complex" in kind:
        raise ImageError("the voxels are not real numbers", received=kind, expected="integers or floats")
    # SimpleITK's arrays are Z, Y, X: transposed, they are X, Y, Z in Fortran order, as NIfTI's are.
    array = one_volume(sitk.GetArrayFromImage(image).T)
    check_shape(array.shape)
    return Volume.from_array(array, affine=ras_affine(image))


def itk_image(array: NDArray[Any], *, like: Volume, sitk: Any) -> Any:
    """Return a SimpleITK image on the grid of a volume.

    Args:
        array: (X, Y, Z) of `like`.
        like: The volume that defines the geometry.
        sitk: The SimpleITK module.

    Raises:
        ImageError: `array` has a different shape from `like`.
    """
    if array.shape != like.shape:
        raise ImageError(
            "array and volume differ in shape", received=f"{array.shape}", expected=f"{like.shape}"
        )
    image = sitk.GetImageFromArray(array.T)
    affine = _LPS @ like.affine
    image.SetSpacing([float(s) for s in like.spacing])
    image.SetDirection((affine[:3, :3] / np.array(like.spacing)).ravel().tolist())
    image.SetOrigin(affine[:3, 3].tolist())
    return image


def write_itk(path: Path, array: NDArray[Any], *, like: Volume) -> None:
    """Write voxels on the grid of a volume as compressed `.nrrd` or `.mha`, atomically.

    Args:
        path: The file; its suffix selects the format.
        array: (X, Y, Z) of `like`.
        like: The volume that defines the geometry.

    Raises:
        OutputError: The file cannot be written.
        ImageError: SimpleITK is not installed, or `array` has a different shape from `like`.
    """
    sitk = load_simpleitk(path)
    image = itk_image(array, like=like, sitk=sitk)
    # ITK selects the format by the suffix, which the temporary file therefore needs too.
    with replacing(path, suffix=path.suffix.lower()) as temporary:
        try:
            sitk.WriteImage(image, str(temporary), useCompression=True)
            written = sitk.ReadImage(str(temporary))  # ITK's NRRD writer does not report a full disk
            if not np.array_equal(sitk.GetArrayViewFromImage(written), array.T):
                raise OSError(errno.EIO, "the written file differs from its data (is the disk full?)")
        except RuntimeError as error:
            raise OSError(0, _reason(error)) from error


def _reason(error: RuntimeError) -> str:
    """Return the last line of an ITK message; the lines before it name ITK's source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
