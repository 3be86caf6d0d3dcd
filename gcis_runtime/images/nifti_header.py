"""Read and validate NIfTI headers before memory for voxels is allocated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from gcis_runtime.errors import ImageError
from gcis_runtime.images.suffixes import READABLE
from gcis_runtime.images.volume import check_affine, check_shape, corner_shift, spatial_shape

FIX = "Check that it is a complete .nii or .nii.gz file."
_PAIR = "Convert the .hdr/.img pair to .nii.gz."
_CONVERT = (
    "Convert it to NIfTI: `dcm2niix -z y -o OUT DICOM_FOLDER` for DICOM, "
    "`SimpleITK.WriteImage(SimpleITK.ReadImage(FILE), 'x.nii.gz')` for formats that SimpleITK reads."
)
_MAX_OFFSET = 1 << 28
"""Bytes before the first voxel; header extensions, such as a copy of DICOM tags, take a few megabytes."""
_REPORTED = 30
"""nibabel's severity level of header problems from which the geometry may be wrong."""
_DAMAGE = (HeaderDataError, WrapStructError, ValueError, KeyError, OverflowError)
"""Exceptions of nibabel for invalid fields, such as a quaternion longer than 1."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Layout:
    """Position, type and geometry of the voxels of a file. Created by `read_layout`.

    Attributes:
        header: nibabel's header, repaired where the repair does not concern the voxels.
        shape: Voxels along X, Y, Z.
        dtype: The stored type, in the byte order of the file.
        offset: Position of the first voxel in the uncompressed file, bytes.
        affine: (4, 4) float64, voxel index to RAS+ mm.
        scaling: Slope and intercept from stored values to HU; None for slope 1 and intercept 0.
        notes: Irregularities of the geometry.
    """

    header: Any
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    affine: NDArray[np.float64]
    scaling: tuple[float, float] | None
    notes: tuple[str, ...]


def read_layout(stream: IO[bytes], path: Path) -> Layout:
    """Read a NIfTI-1 or NIfTI-2 single-file header of either byte order; extensions are skipped, not read.

    Args:
        stream: The uncompressed file, at its start.
        path: Name of the file for messages.

    Raises:
        ImageError: The file is not NIfTI, is damaged, is not one volume of real numbers, or has an invalid
            affine.
    """
    start = stream.read(4)
    stream.seek(0)
    sizes = {int.from_bytes(start, "little"), int.from_bytes(start, "big")} if len(start) == 4 else set()
    kind = nib.Nifti2Header if 540 in sizes else nib.Nifti1Header if 348 in sizes else None
    if kind is None:
        raise ImageError(
            f"{path} is not a NIfTI file",
            received=f"the first bytes {start!r}",
            expected=f"NIfTI, or by suffix another readable format ({', '.join(READABLE)})",
            fix=_PAIR if path.suffix.lower() == ".img" else _CONVERT,
        )
    try:
        header = kind(stream.read(kind.template_dtype.itemsize), check=False)
        if not header["magic"].item().startswith(b"n+"):
            raise ImageError(
                f"{path} is a header without voxels",
                received="the header of a .hdr/.img pair",
                expected="one .nii file",
                fix=_PAIR,
            )
        return _layout(header, path)
    except _DAMAGE as error:
        raise ImageError(f"{path} has a damaged header", received=str(error), fix=FIX) from error


def geometry_notes(header: Any) -> tuple[str, ...]:
    """Return notes on a NIfTI header whose geometry is undefined or contradictory."""
    qcode, scode = int(header["qform_code"]), int(header["sform_code"])
    if not qcode and not scode:
        return ("neither qform nor sform is set: the orientation is a guess",)
    if not qcode or not scode:
        return ()
    try:
        qform = header.get_qform()
    except _DAMAGE:
        return ("the qform is invalid: the sform is used",)
    shape = tuple(int(n) for n in header.get_data_shape()[:3])
    sform = header.get_sform()
    spacing = np.linalg.norm(sform[:3, :3], axis=0)
    # Half a voxel, plus the rounding of a float32 quaternion near 180 degrees, as in most CT: 7e-4 rad.
    allowed = 0.5 * spacing.min() + 1e-3 * np.linalg.norm(spacing * shape)
    if not corner_shift(shape, qform, sform) <= allowed:
        return ("qform and sform disagree: the sform is used",)
    return ()


class _Repairs:
    """Logger that collects the header problems reported by nibabel as notes of the volume."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def log(self, level: int, message: str) -> None:
        """Keep the message of a repair that concerns geometry."""
        if level >= _REPORTED and "divisible by 16" not in message:
            self.messages.append(f"header repaired: {message}")


def _layout(header: Any, path: Path) -> Layout:
    """Validate the fields of a header; raise nibabel's exceptions or `ImageError`."""
    _refuse_contradictions(header, path)
    repairs = _Repairs()
    header.check_fix(logger=repairs, error_level=40)
    shape = spatial_shape(tuple(int(n) for n in header.get_data_shape()))
    try:
        check_shape(shape)
        affine = np.array(header.get_best_affine(), dtype=np.float64)
        check_affine(affine)
    except ImageError as error:
        raise error.named(path) from error
    dtype = header.get_data_dtype()
    if dtype.names is not None or dtype.kind not in "iuf":
        raise ImageError(
            f"{path}: the voxels are not real numbers", received=str(dtype), expected="integers or floats"
        )
    slope, inter = header.get_slope_inter()
    return Layout(
        header=header,
        shape=shape,
        dtype=dtype,
        offset=int(header.get_data_offset()),
        affine=affine,
        scaling=None if slope is None or (slope, inter) == (1.0, 0.0) else (float(slope), float(inter)),
        notes=(*repairs.messages, *geometry_notes(header)),
    )


def _refuse_contradictions(header: Any, path: Path) -> None:
    """Raise an error for fields that nibabel would repair by guessing the place or size of the voxels."""
    bits, expected = int(header["bitpix"]), header.get_data_dtype().itemsize * 8
    if bits not in (0, expected):  # some writers leave the field 0
        raise ImageError(
            f"{path} has a damaged header: bitpix does not match the voxel type",
            received=f"{bits} bits",
            expected=f"{expected} for {header.get_data_dtype()}",
            fix=FIX,
        )
    pixdim = np.asarray(header["pixdim"][:4], dtype=np.float64)
    if not np.isfinite(pixdim).all():
        raise ImageError(
            f"{path} has a damaged header: pixdim is not finite",
            received=", ".join(f"{value:g}" for value in pixdim),
            expected="voxel sizes in mm",
            fix=FIX,
        )
    offset = float(header["vox_offset"])
    if not 0 <= offset <= _MAX_OFFSET:
        raise ImageError(
            f"{path} has a damaged header: vox_offset is implausible",
            received=f"{offset:g}",
            expected=f"352 to {_MAX_OFFSET} bytes",
            fix=FIX,
        )
