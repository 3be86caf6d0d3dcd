"""Read and validate NIfTI headers before memory for voxels is allocated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from gcis_runtime.errors import ImageError
from gcis_runtime.images.contents import HEAD, refuse_known
from gcis_runtime.images.nifti_pair import voxel_file
from gcis_runtime.images.suffixes import READABLE
from gcis_runtime.images.volume import check_affine, check_shape, corner_shift, spatial_shape

FIX = "Check that it is a complete .nii or .nii.gz file."
_CONVERT = (
    "Convert it to NIfTI: `dcm2niix -z y -o OUT DICOM_FOLDER` for DICOM, "
    "`SimpleITK.WriteImage(SimpleITK.ReadImage(FILE), 'x.nii.gz')` for formats that SimpleITK reads."
)
_MAX_OFFSET = 1 << 28
"""Bytes before the first voxel; header extensions, such as a copy of DICOM tags, take a few megabytes."""
_EXTENSION = 16
"""Sizes of header extensions are multiples of this number of bytes."""
_UNITS = {1: ("metres", 1000.0), 3: ("micrometres", 1e-3)}
"""Name and mm of the codes of `xyzt_units`; 0 is not set and 2 is mm."""
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
        pair: Whether the voxels are in the `.img` file beside a `.hdr` file.
    """

    header: Any
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    offset: int
    affine: NDArray[np.float64]
    scaling: tuple[float, float] | None
    notes: tuple[str, ...]
    pair: bool = False


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
        refuse_known(path, stream.read(HEAD))
        raise ImageError(
            f"{path} is not a NIfTI file",
            received=f"the first bytes {start!r}",
            expected=f"NIfTI, or by suffix another readable format ({', '.join(READABLE)})",
            fix=_CONVERT,
        )
    try:
        header = kind(stream.read(kind.template_dtype.itemsize), check=False)
        if pair := _is_pair(header, path):
            voxel_file(path)
        else:
            _refuse_offset(header, stream, path)
        return _layout(header, path, pair=pair)
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


def _is_pair(header: Any, path: Path) -> bool:
    """Return whether a header belongs to a `.hdr`/`.img` pair; refuse Analyze 7.5 and other magic strings."""
    magic = header["magic"].item()
    if magic.startswith((b"n+1", b"n+2")):
        return False
    if magic.startswith((b"ni1", b"ni2")):
        return True
    raise ImageError(
        f"{path} is not a NIfTI file",
        received=f"the magic string {magic!r}" + ("" if magic else ", as in Analyze 7.5"),
        expected="n+1, n+2, ni1 or ni2",
        fix="Convert it to NIfTI with a program that knows its orientation: Analyze files do not state it.",
    )


def _refuse_offset(header: Any, stream: IO[bytes], path: Path) -> None:
    """Raise an error if the voxels begin inside the header or inside its extensions.

    Args:
        header: The header.
        stream: The file behind the header.
        path: The file, for the message.
    """
    offset, first = float(header["vox_offset"]), header.single_vox_offset
    if stream.read(4)[:1] not in (b"", b"\x00"):
        first = _end_of_extensions(header, stream, min(offset, _MAX_OFFSET))
    if not offset >= first or offset != int(offset):
        raise ImageError(
            f"{path} has a damaged header: vox_offset is implausible",
            received=f"{offset:g}, inside the header",
            expected=f"a whole number from {first}",
            fix=FIX,
        )


def _end_of_extensions(header: Any, stream: IO[bytes], offset: float) -> int:
    """Return the end of the chain of extensions that begins before the voxels.

    Args:
        header: The header.
        stream: The file at the first extension.
        offset: Position of the voxels according to the header.
    """
    first = end = int(header.single_vox_offset)
    order: Literal["little", "big"] = "little" if header.endianness == "<" else "big"
    while (end == first or end < offset) and len(start := stream.read(8)) == 8:
        size = int.from_bytes(start[:4], order)
        if size < _EXTENSION or size % _EXTENSION or size > _MAX_OFFSET:
            break  # padding
        stream.read(size - 8)
        end += size
    return end


def _choose_form(header: Any) -> tuple[str, ...]:
    """Select the qform of a header whose sform is set but maps no voxels to positions; return a note."""
    if not int(header["sform_code"]) or not int(header["qform_code"]):
        return ()
    try:
        check_affine(np.array(header.get_sform(), dtype=np.float64))
    except ImageError:
        try:
            check_affine(np.array(header.get_qform(), dtype=np.float64))
        except (ImageError, *_DAMAGE):
            return ()
        header["sform_code"] = 0
        return ("the sform is invalid: the qform is used",)
    return ()


def length_unit(header: Any) -> float:
    """Return millimetres per unit of length of a header."""
    return _units(header)[0]


def _units(header: Any) -> tuple[float, tuple[str, ...]]:
    """Return millimetres per unit of length of a header, and a note unless it is mm or not set."""
    code = int(header["xyzt_units"]) & 7
    if code in (0, 2):
        return 1.0, ()
    if code in _UNITS:
        name, factor = _UNITS[code]
        return factor, (f"the header states lengths in {name}: converted to mm",)
    return 1.0, (f"the unit of length has the unknown code {code}: mm is a guess",)


def _with_units(error: ImageError, notes: tuple[str, ...]) -> ImageError:
    """Name the unit of a header in an error: files in mm may state another one."""
    received = "; ".join((error.received or "", *notes))
    return ImageError(error.message, received=received, expected=error.expected, fix=error.fix)


def _layout(header: Any, path: Path, *, pair: bool) -> Layout:
    """Validate the fields of a header; raise nibabel's exceptions or `ImageError`."""
    _refuse_contradictions(header, path)
    repairs = _Repairs()
    header.check_fix(logger=repairs, error_level=40)
    shape = spatial_shape(tuple(int(n) for n in header.get_data_shape()))
    factor, unit_notes = _units(header)
    form_notes = _choose_form(header)
    try:
        check_shape(shape)
        affine = np.array(header.get_best_affine(), dtype=np.float64)
        affine[:3] *= factor
        check_affine(affine)
    except ImageError as error:
        raise _with_units(error, unit_notes).named(path) from error
    dtype = header.get_data_dtype()
    if dtype.names is not None or dtype.kind not in "iuf":
        raise ImageError(
            f"{path}: the voxels are not real numbers", received=str(dtype), expected="integers or floats"
        )
    slope, inter = header.get_slope_inter()
    lost = np.isinf(header["scl_slope"]) or (slope is None and np.isinf(header["scl_inter"]))
    scale_notes = ("the scale factor is not finite and was ignored",) if lost else ()
    return Layout(
        header=header,
        shape=shape,
        dtype=dtype,
        offset=int(header.get_data_offset()),
        affine=affine,
        scaling=None if slope is None or (slope, inter) == (1.0, 0.0) else (float(slope), float(inter)),
        notes=(*repairs.messages, *form_notes, *unit_notes, *scale_notes, *geometry_notes(header)),
        pair=pair,
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
