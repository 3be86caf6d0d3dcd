"""NIfTI files: reading with defined behaviour for every kind of damage, and writing whole or not at all.

Voxels are read here rather than by nibabel's proxy, which makes float64 of scaled data, trusts the
header's size before the file's, and never reaches the gzip trailer, so that flipped bits go unseen.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any, cast

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError
from nibabel.wrapstruct import WrapStructError
from numpy.typing import NDArray

from gcis_runtime import gzipped
from gcis_runtime.atomic import replacing
from gcis_runtime.errors import ImageError
from gcis_runtime.volume import Volume, check_affine, check_finite, check_shape, to_lean

_GZIP_MAGIC = b"\x1f\x8b"
_MAX_DEFLATE_RATIO = 1040
"""Deflate cannot shrink more than 1032:1, so a header that claims more is refused at once."""
_CHUNK = 1 << 24
_FIX = "Check that it is a complete .nii or .nii.gz file."


def read_volume(path: str | os.PathLike[str]) -> Volume:
    """Read a CT volume from a `.nii` or `.nii.gz` file (told apart by content, not by name).

    A 4-D file with one volume is accepted. Voxels stay int16 where the file's type allows it and has no
    scaling, and are float32 otherwise.

    Raises:
        ImageError: Missing, a folder, not NIfTI, damaged, truncated, empty, several volumes, colour or
            complex voxels, non-finite voxels, or a grid that does not place voxels in space.
    """
    path = Path(path)
    if path.is_dir():
        raise ImageError(f"{path} is a folder", expected="a NIfTI file", fix="Name the .nii.gz file in it.")
    if not path.exists():
        raise ImageError(f"{path} does not exist", expected="a NIfTI file", fix="Check the path.")
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == _GZIP_MAGIC
            raw.seek(0)
            if not zipped:
                return _read(raw, path, ratio=1)
            with gzipped.open_reader(raw) as stream:
                return _read(stream, path, ratio=_MAX_DEFLATE_RATIO)
    except gzipped.damage() as error:
        raise ImageError(f"{path} is damaged or truncated", received=str(error), fix=_FIX) from error
    except PermissionError as error:
        raise ImageError(
            f"{path} cannot be read", received=error.strerror, fix="Check its permissions."
        ) from error


def write_labels(path: str | os.PathLike[str], labels: NDArray[Any], *, like: Volume) -> None:
    """Write a label map with exactly the geometry of `like`: uint8, or uint16 when values exceed 255.

    Args:
        path: `.nii` or `.nii.gz`; appears whole or not at all.
        labels: Label values, shape (X, Y, Z) of `like`.
        like: The volume that was segmented.

    Raises:
        OutputError: The file cannot be written.
        ImageError: `labels` has another shape than `like`.
    """
    _write(Path(path), lean_labels(labels, like=like), like=like)


def lean_labels(labels: NDArray[Any], *, like: Volume) -> NDArray[Any]:
    """Return a label map in the smallest type that holds it: uint8, or uint16 when values exceed 255.

    Raises:
        ImageError: `labels` has another shape than `like`.
    """
    if labels.shape != like.shape:
        raise ImageError(
            "label map and volume differ in shape", received=f"{labels.shape}", expected=f"{like.shape}"
        )
    dtype = np.uint8 if labels.size == 0 or int(labels.max()) <= 255 else np.uint16
    return labels.astype(dtype, copy=False)


def write_scaled(path: Path, array: NDArray[Any], *, slope: float, like: Volume) -> None:
    """Write voxels that readers multiply by `slope`, on the grid of `like`.

    Raises:
        OutputError: The file cannot be written.
    """
    _write(path, array, like=like, slope=slope)


def write_volume(path: str | os.PathLike[str], volume: Volume) -> None:
    """Write a volume's voxels and geometry as `.nii` or `.nii.gz`.

    Raises:
        OutputError: The file cannot be written.
    """
    _write(Path(path), volume.array, like=volume)


def _read(stream: IO[bytes], path: Path, *, ratio: int) -> Volume:
    """Read header and voxels; `ratio` is the most by which the file may expand."""
    header = _header(stream, path)
    shape = tuple(int(n) for n in header.get_data_shape())
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    dtype = header.get_data_dtype()
    offset = int(header.get_data_offset())
    try:
        check_shape(shape)
        affine = np.array(header.get_best_affine(), dtype=np.float64)
        check_affine(affine)
        if dtype.names is not None or dtype.kind not in "iuf":
            raise ImageError(
                "the voxels are not real numbers", received=str(dtype), expected="integers or floats"
            )
        size = path.stat().st_size
        need = offset + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        if need > size * ratio:
            raise ImageError(
                "the file is truncated",
                received=f"{size} bytes",
                expected=f"{need} from its header",
                fix=_FIX,
            )
        array = _voxels(stream, header, shape, offset)
        check_finite(array)
    except ImageError as error:
        message = f"{path}: {error.message}"
        raise ImageError(message, received=error.received, expected=error.expected, fix=error.fix) from error
    return Volume(array=array, affine=affine, header=header, notes=_notes(header))


def _header(stream: IO[bytes], path: Path) -> Any:
    """Read a NIfTI-1 or NIfTI-2 single-file header of either byte order."""
    start = stream.read(4)
    stream.seek(0)
    sizes = {int.from_bytes(start, "little"), int.from_bytes(start, "big")} if len(start) == 4 else set()
    kind = nib.Nifti2Header if 540 in sizes else nib.Nifti1Header if 348 in sizes else None
    if kind is None:
        raise ImageError(
            f"{path} is not a NIfTI file", expected="a .nii or .nii.gz file", fix="Convert it to NIfTI."
        )
    try:
        header = kind.from_fileobj(stream)
    except (HeaderDataError, WrapStructError, ValueError, KeyError) as error:
        raise ImageError(f"{path} has a damaged header", received=str(error), fix=_FIX) from error
    if not header["magic"].item().startswith(b"n+"):
        raise ImageError(
            f"{path} is a header without voxels",
            expected="one .nii file",
            fix="Convert the .hdr/.img pair to .nii.gz.",
        )
    return header


def _voxels(stream: IO[bytes], header: Any, shape: tuple[int, ...], offset: int) -> NDArray[Any]:
    """Read voxels, (X, Y, Z) in Fortran order, scaled as the header says."""
    stored = np.empty(shape, dtype=header.get_data_dtype(), order="F")
    stream.seek(offset)
    view = memoryview(cast("Any", stored.reshape(-1, order="F").view(np.uint8)))
    done = 0
    while done < len(view):
        got = stream.readinto(view[done : done + _CHUNK])  # type: ignore[attr-defined]
        if not got:
            raise ImageError(
                "the file is truncated", received=f"{done} voxel bytes", expected=str(len(view)), fix=_FIX
            )
        done += got
    stream.read(1)  # reaching the end makes gzip compare its checksum
    if not stored.dtype.isnative:
        stored = stored.byteswap(inplace=True).view(stored.dtype.newbyteorder())
    slope, inter = header.get_slope_inter()
    if slope is None or (slope, inter) == (1.0, 0.0):
        return to_lean(stored)
    scaled = stored.astype(np.float32)
    scaled *= np.float32(slope)
    scaled += np.float32(inter)
    return scaled


def _notes(header: Any) -> tuple[str, ...]:
    """Say what is odd about the header's geometry."""
    qcode, scode = int(header["qform_code"]), int(header["sform_code"])
    if not qcode and not scode:
        return ("neither qform nor sform is set: the orientation is a guess",)
    if qcode and scode and not np.allclose(header.get_qform(), header.get_sform(), atol=1e-2):
        return ("qform and sform disagree: the sform is used",)
    return ()


def _write(path: Path, array: NDArray[Any], *, like: Volume, slope: float = 1.0) -> None:
    """Write `array` on the grid of `like`, compressed when the name says so."""
    kind = nib.Nifti2Image if isinstance(like.header, nib.Nifti2Header) else nib.Nifti1Image
    if like.header is None:
        image = kind(array, like.affine)
        image.set_sform(like.affine, code=1)
        image.set_qform(like.affine, code=1)
    else:
        # nibabel keeps qform, sform and their codes bit for bit when the affine is the header's own.
        header = kind.header_class.from_header(like.header)
        for field in ("descrip", "aux_file", "intent_name"):
            header[field] = b""
        header["cal_min"], header["cal_max"], header["intent_code"] = 0, 0, 0
        header.extensions.clear()
        image = kind(array, like.affine, header)
    image.set_data_dtype(array.dtype)
    image.header.set_slope_inter(slope, 0)
    with replacing(path) as temporary, temporary.open("wb") as raw:
        if path.name.endswith(".gz"):
            with gzipped.open_writer(raw) as stream:
                _write_stream(stream, image, array)
        else:
            _write_stream(raw, image, array)


def _write_stream(stream: IO[bytes], image: Any, array: NDArray[Any]) -> None:
    """Write header and voxels; nibabel's own writer goes a plane at a time."""
    image.update_header()
    header = image.header
    header.set_data_offset(header.single_vox_offset)
    stream.write(header.binaryblock)
    stream.write(bytes(header.single_vox_offset - len(header.binaryblock)))  # no extensions
    stored = header.get_data_dtype()
    planes = max(1, _CHUNK // max(1, array[..., 0].size * stored.itemsize))
    for first in range(0, array.shape[-1], planes):
        part = array[..., first : first + planes].astype(stored, order="F", copy=False)
        stream.write(memoryview(cast("Any", part.reshape(-1, order="F").view(np.uint8))))
