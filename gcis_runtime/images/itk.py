"""NRRD and MetaImage files through SimpleITK, whose patient axes are turned from LPS to NIfTI's RAS and back.

SimpleITK is an extra (`gcis[simpleitk]`), imported when such a file is named.
"""

from __future__ import annotations

import errno
import importlib
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.errors import ImageError
from gcis_runtime.images.itk_header import FIX, check_metaimage, check_voxels, find_voxels
from gcis_runtime.images.volume import Volume, check_file, check_shape, one_volume, spatial_shape
from gcis_runtime.system.atomic_files import replacing
from gcis_runtime.system.gzip_stream import MAX_DEFLATE_RATIO

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])


def load_simpleitk(path: Path) -> Any:
    """Import SimpleITK for a file that needs it.

    Raises:
        ImageError: It is not installed.
    """
    try:
        return importlib.import_module("SimpleITK")
    except ImportError as error:
        raise ImageError(
            f"{path.name} needs SimpleITK",
            received="no such package here",
            fix='`pip install SimpleITK` (or "gcis[simpleitk]"), or convert the file to NIfTI.',
        ) from error


def ras_affine(image: Any) -> NDArray[np.float64]:
    """Return the affine (4, 4), voxel index to RAS+ mm, of a SimpleITK image or reader, which counts in LPS.

    Axes beyond the third are left out.
    """
    size = image.GetDimension()
    direction = np.asarray(image.GetDirection(), dtype=np.float64).reshape(size, size)[:3, :3]
    affine = np.eye(4)
    affine[:3, :3] = direction * np.asarray(image.GetSpacing()[:3], dtype=np.float64)
    affine[:3, 3] = image.GetOrigin()[:3]
    return _LPS @ affine


def read_itk(path: Path) -> Volume:
    """Read a CT volume in HU from an NRRD or MetaImage file; a 4-D file with one volume is accepted.

    Raises:
        ImageError: SimpleITK is missing, or the file is missing, damaged, truncated, or no CT volume.
    """
    sitk = load_simpleitk(path)
    try:
        reader, shape = _read_header(sitk, path)
        _check_stored(sitk, reader, path, shape)
        affine = ras_affine(reader)
        # SimpleITK's arrays are Z, Y, X: transposed, they are X, Y, Z in Fortran order, as NIfTI's are.
        array = sitk.GetArrayFromImage(reader.Execute()).T.reshape(shape, order="F")
    except RuntimeError as error:
        raise ImageError(f"{path} cannot be read", received=_reason(error), fix=FIX) from error
    guess = path.suffix.lower() == ".nrrd" and "NRRD_space" not in reader.GetMetaDataKeys()
    notes = ("the NRRD header names no space: the orientation is a guess",) if guess else ()
    try:
        return replace(Volume.from_array(array, affine=affine), notes=notes)
    except ImageError as error:
        raise error.named(path) from error


def itk_voxel_bytes(path: Path) -> int:
    """Return the most memory that reading a file's voxels will take, from its header alone.

    SimpleITK's image and the array that is copied from it are there at once, then that and the lean one.

    Raises:
        ImageError: See `read_itk`.
    """
    sitk = load_simpleitk(path)
    try:
        reader, shape = _read_header(sitk, path)
    except RuntimeError as error:
        raise ImageError(f"{path} cannot be read", received=_reason(error), fix=FIX) from error
    kind = reader.GetPixelID()
    size, lean = (
        _voxel_size(sitk, reader),
        2 if kind in (sitk.sitkInt8, sitk.sitkUInt8, sitk.sitkInt16) else 4,
    )
    kept = kind in (sitk.sitkInt16, sitk.sitkFloat32)
    return math.prod(shape) * (size + max(size, 0 if kept else lean))


def volume_from_itk(image: Any) -> Volume:
    """Make a volume of a SimpleITK image in HU; a 4-D image with one volume is accepted.

    Raises:
        ImageError: Several volumes, colour, non-finite voxels, or a grid that does not place voxels in space.
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
    """Return a SimpleITK image of voxels on a volume's grid.

    Args:
        array: (X, Y, Z) of `like`.
        like: The volume that gives the geometry.
        sitk: The SimpleITK module.

    Raises:
        ImageError: `array` has another shape than `like`.
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
    """Write voxels on a volume's grid as compressed `.nrrd` or `.mha`, whole or not at all.

    Args:
        path: Where to; the suffix decides the format.
        array: (X, Y, Z) of `like`.
        like: The volume that gives the geometry.

    Raises:
        OutputError: The file cannot be written.
        ImageError: SimpleITK is missing, or `array` has another shape than `like`.
    """
    sitk = load_simpleitk(path)
    image = itk_image(array, like=like, sitk=sitk)
    # ITK chooses the format by the name, so that the temporary file must have the suffix too.
    with replacing(path, suffix=path.suffix.lower()) as temporary:
        try:
            sitk.WriteImage(image, str(temporary), useCompression=True)
            written = sitk.ReadImage(str(temporary))  # ITK's NRRD writer does not notice a full disk
            if not np.array_equal(sitk.GetArrayViewFromImage(written), array.T):
                raise OSError(errno.EIO, "the file does not read back as it was written (is the disk full?)")
        except RuntimeError as error:
            raise OSError(0, _reason(error)) from error


def _read_header(sitk: Any, path: Path) -> tuple[Any, tuple[int, ...]]:
    """Return a reader that has read a header, and the voxels along X, Y, Z; refuse what is no CT."""
    check_file(path)
    if path.suffix.lower() != ".nrrd":
        check_metaimage(path)
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    shape = spatial_shape(tuple(int(n) for n in reader.GetSize()))
    try:
        check_shape(shape)
    except ImageError as error:
        raise error.named(path) from error
    kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    if reader.GetNumberOfComponents() != 1 or "complex" in kind:
        raise ImageError(
            f"{path}: the voxels are not real numbers", received=kind, expected="integers or floats"
        )
    return reader, shape


def _check_stored(sitk: Any, reader: Any, path: Path, shape: tuple[int, ...]) -> None:
    """Refuse a header that claims more voxels than the file can hold, and damaged voxels."""
    stored = find_voxels(path)
    voxels, size = math.prod(shape), stored.file.stat().st_size
    if voxels > size * MAX_DEFLATE_RATIO:
        raise ImageError(
            f"{path}: the file is truncated",
            received=f"{size} bytes",
            expected=" x ".join(map(str, shape)) + " voxels from its header",
            fix=FIX,
        )
    check_voxels(path, stored, voxels * _voxel_size(sitk, reader))


def _voxel_size(sitk: Any, reader: Any) -> int:
    """Return the bytes of a voxel as the file's type has them."""
    return int(sitk.Image([1, 1], reader.GetPixelID()).GetSizeOfPixelComponent())


def _reason(error: RuntimeError) -> str:
    """Return the last line of ITK's message: the ones before it name its source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
