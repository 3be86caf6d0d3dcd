"""Images as Python programs hold them: arrays, nibabel's, SimpleITK's, paths; all become a `Volume`."""

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
    """What tells a SimpleITK image, without importing SimpleITK."""

    def GetSize(self) -> Any:  # noqa: N802 (ITK's names)
        """Voxels along X, Y, Z."""

    def GetSpacing(self) -> Any:  # noqa: N802
        """Voxel size in mm."""

    def GetOrigin(self) -> Any:  # noqa: N802
        """First voxel's centre in LPS mm."""

    def GetDirection(self) -> Any:  # noqa: N802
        """Directions of the axes in LPS, row by row."""


ImageLike: TypeAlias = "Volume | str | os.PathLike[str] | FileBasedImage | ItkImage | NDArray[Any]"
"""`FileBasedImage` is what `nibabel.load` says it returns; those with voxels in space are accepted."""


def as_volume(image: ImageLike, *, affine: ArrayLike | None = None) -> Volume:
    """Make a volume of an image in HU; the image is not changed, and not copied where int16 or float32.

    Args:
        image: A `Volume`, a nibabel or SimpleITK image, the path of a file, or an array (X, Y, Z) with its
            `affine`; a fourth axis of length 1 is left out.
        affine: (4, 4), voxel index to RAS+ mm; only for an array.

    Raises:
        ImageError: Something else, an array without an affine, several volumes, non-finite or masked voxels,
            or a grid that does not place voxels in space.
    """
    if isinstance(image, np.ndarray):
        if np.ma.is_masked(image):
            raise ImageError(
                "the array has masked voxels",
                received=f"{np.count_nonzero(np.ma.getmaskarray(image))} of {image.size}",
                expected="HU values everywhere",
                fix="Fill them, for example with air: array.filled(-1024).",
            )
        if affine is None:
            raise ImageError(
                "an array does not say where its voxels are",
                received="no affine",
                expected="affine=, (4, 4) from voxel index to RAS+ mm",
                fix="Pass it, or a nibabel or SimpleITK image, which have it.",
            )
        return Volume.from_array(one_volume(image), affine=affine)
    known = isinstance(image, Volume | ItkImage | SpatialImage | str | os.PathLike)
    if known and affine is not None:
        raise ImageError(
            "the image says itself where its voxels are",
            received="an affine too",
            fix="Leave affine= out, or pass an array.",
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
        "this is no image",
        received=type(image).__name__,
        expected="a Volume, an array with its affine, a nibabel or SimpleITK image, or a file's path",
        fix="Turn it into a numpy array and pass that with affine=.",
    )


def _from_nibabel(image: Any) -> Volume:
    """Keep a NIfTI header, for the label map to have its codes, but only one that means the same affine."""
    volume = Volume.from_array(one_volume(np.asanyarray(image.dataobj)), affine=image.affine)
    header = image.header
    if not isinstance(header, nib.Nifti1Header) or not np.allclose(header.get_best_affine(), volume.affine):
        return volume
    return Volume(
        array=volume.array, affine=volume.affine, header=header.copy(), notes=geometry_notes(header)
    )
