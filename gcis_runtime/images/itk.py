"""Read and write NRRD and MetaImage files through SimpleITK, with conversion between LPS and RAS.

SimpleITK is an optional dependency (`gcis[simpleitk]`), imported when such a file is read or written.
"""

from __future__ import annotations

import errno
import importlib
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.errors import ImageError
from gcis_runtime.images.grid import Grid
from gcis_runtime.images.itk_header import FIX, check_metaimage, check_voxels, find_voxels
from gcis_runtime.images.volume import (
    Decoded,
    Volume,
    check_file,
    check_shape,
    one_volume,
    spatial_shape,
    to_lean,
)
from gcis_runtime.system.atomic_files import replacing
from gcis_runtime.system.gzip_stream import MAX_DEFLATE_RATIO

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


def read_decoded(path: Path) -> Decoded:
    """Read the voxels and the geometry of an NRRD or MetaImage file; finiteness is not checked.

    A 4-D file with one volume is accepted.

    Raises:
        ImageError: SimpleITK is not installed, or the file is missing, damaged, truncated, or not one volume.
    """
    sitk = load_simpleitk(path)
    try:
        reader, grid = _read_header(sitk, path)
        _check_stored(sitk, reader, path, grid.shape)
        # SimpleITK's arrays are Z, Y, X: transposed, they are X, Y, Z in Fortran order, as NIfTI's are.
        array = sitk.GetArrayFromImage(reader.Execute()).T.reshape(grid.shape, order="F")
    except RuntimeError as error:
        raise ImageError(f"{path} cannot be read", received=_reason(error), fix=FIX) from error
    guess = path.suffix.lower() == ".nrrd" and "NRRD_space" not in reader.GetMetaDataKeys()
    notes = ("the NRRD header has no space field: the orientation is a guess",) if guess else ()
    return Decoded(array=to_lean(array), affine=grid.affine, notes=notes)


def read_grid(path: Path) -> Grid:
    """Read shape and affine of an NRRD or MetaImage file, from its header alone.

    Raises:
        ImageError: See `read_decoded`.
    """
    sitk = load_simpleitk(path)
    try:
        return _read_header(sitk, path)[1]
    except RuntimeError as error:
        raise ImageError(f"{path} cannot be read", received=_reason(error), fix=FIX) from error


def itk_voxel_bytes(path: Path) -> int:
    """Return the peak memory in bytes of reading the voxels of a file, from its header alone.

    SimpleITK's image and its copy as an array exist at the same time, then the copy and its conversion.

    Raises:
        ImageError: See `read_decoded`.
    """
    sitk = load_simpleitk(path)
    try:
        reader, grid = _read_header(sitk, path)
    except RuntimeError as error:
        raise ImageError(f"{path} cannot be read", received=_reason(error), fix=FIX) from error
    kind = reader.GetPixelID()
    size, lean = (
        _voxel_size(sitk, reader),
        2 if kind in (sitk.sitkInt8, sitk.sitkUInt8, sitk.sitkInt16) else 4,
    )
    kept = kind in (sitk.sitkInt16, sitk.sitkFloat32)
    return math.prod(grid.shape) * (size + max(size, 0 if kept else lean))


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


def _read_header(sitk: Any, path: Path) -> tuple[Any, Grid]:
    """Return a reader that has read the header, and the grid; refuse voxels that are not real numbers."""
    check_file(path)
    if path.suffix.lower() != ".nrrd":
        check_metaimage(path)
    reader = sitk.ImageFileReader()
    # ITK's own choice of the format is case-sensitive: it does not recognise `.MHA`.
    reader.SetImageIO("NrrdImageIO" if path.suffix.lower() == ".nrrd" else "MetaImageIO")
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    shape = spatial_shape(tuple(int(n) for n in reader.GetSize()))
    try:
        check_shape(shape)
        grid = Grid(shape=shape, affine=ras_affine(reader))
    except ImageError as error:
        raise error.named(path) from error
    kind = sitk.GetPixelIDValueAsString(reader.GetPixelID())
    if reader.GetNumberOfComponents() != 1 or "complex" in kind:
        raise ImageError(
            f"{path}: the voxels are not real numbers", received=kind, expected="integers or floats"
        )
    return reader, grid


def _check_stored(sitk: Any, reader: Any, path: Path, shape: tuple[int, ...]) -> None:
    """Raise an error if the header states more voxels than the file can hold, or if voxels are damaged."""
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
    """Return the bytes per voxel of the type of the file."""
    return int(sitk.Image([1, 1], reader.GetPixelID()).GetSizeOfPixelComponent())


def _reason(error: RuntimeError) -> str:
    """Return the last line of an ITK message; the lines before it name ITK's source files."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
