"""Convert arrays, nibabel images, SimpleITK images and paths to `Volume`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import nibabel as nib
import numpy as np
from nibabel.filebasedimages import FileBasedImage
from nibabel.spatialimages import SpatialImage
from numpy.typing import ArrayLike, NDArray

from gcis_runtime.errors import ImageError
from gcis_runtime.images.files import check_plausible, read_volume
from gcis_runtime.images.itk import volume_from_itk
from gcis_runtime.images.nifti_header import geometry_notes
from gcis_runtime.images.volume import Volume, one_volume


@runtime_checkable
class ItkImage(Protocol):
    """The methods by which a SimpleITK image is recognised without importing SimpleITK."""

    def GetSize(self) -> Any:  # noqa: N802 (ITK's names)
        """Voxels along X, Y, Z."""

    def GetSpacing(self) -> Any:  # noqa: N802
        """Voxel size in mm."""

    def GetOrigin(self) -> Any:  # noqa: N802
        """Centre of the first voxel in LPS mm."""

    def GetDirection(self) -> Any:  # noqa: N802
        """Direction cosines of the axes in LPS, row by row."""


ImageLike: TypeAlias = "Volume | str | os.PathLike[str] | FileBasedImage | ItkImage | NDArray[Any]"
"""`FileBasedImage` is the declared return type of `nibabel.load`; only spatial images are accepted."""


def as_volume(image: ImageLike, *, affine: ArrayLike | None = None) -> Volume:
    """Convert an image in HU to a volume; int16 and float32 voxels are not copied.

    Args:
        image: A `Volume`, a nibabel or SimpleITK image, the path of a file, or an array (X, Y, Z) with its
            `affine`; a fourth axis of length 1 is removed.
        affine: (4, 4), voxel index to RAS+ mm; only for an array.

    Raises:
        ImageError: Another type, an array without an affine, several volumes, non-finite or masked voxels, or
            an invalid affine.
    """
    if isinstance(image, np.ndarray):
        if np.ma.is_masked(image):
            raise ImageError(
                "the array has masked voxels",
                received=f"{np.count_nonzero(np.ma.getmaskarray(image))} of {image.size}",
                expected="HU values in every voxel",
                fix="Fill them, for example with air: array.filled(-1024).",
            )
        if affine is None:
            raise ImageError(
                "an array needs an affine",
                received="no affine",
                expected="affine=, (4, 4) from voxel index to RAS+ mm",
                fix="Pass affine=, or a nibabel or SimpleITK image, which has one.",
            )
        return Volume.from_array(one_volume(image), affine=affine)
    known = isinstance(image, Volume | ItkImage | SpatialImage | str | os.PathLike)
    if known and affine is not None:
        raise ImageError(
            "this image already has an affine",
            received=f"{type(image).__name__} and affine=",
            expected="affine= only with an array",
            fix="Omit affine=, or pass an array.",
        )
    if isinstance(image, Volume):
        return image
    if isinstance(image, ItkImage):
        return volume_from_itk(image)
    if isinstance(image, SpatialImage):
        return _from_nibabel(image)
    if isinstance(image, str | os.PathLike):
        check_plausible(Path(image))
        return read_volume(image)
    raise ImageError(
        "the argument is not an image",
        received=type(image).__name__,
        expected="a Volume, an array with its affine, a nibabel or SimpleITK image, or the path of a file",
        fix="Convert it to a numpy array and pass that with affine=.",
    )


def _from_nibabel(image: Any) -> Volume:
    """Convert a nibabel image; keep a NIfTI header whose affine is that of the image, for label maps."""
    volume = Volume.from_array(one_volume(np.asanyarray(image.dataobj)), affine=image.affine)
    header = image.header
    if not isinstance(header, nib.Nifti1Header) or not np.allclose(header.get_best_affine(), volume.affine):
        return volume
    return Volume(
        array=volume.array, affine=volume.affine, header=header.copy(), notes=geometry_notes(header)
    )
