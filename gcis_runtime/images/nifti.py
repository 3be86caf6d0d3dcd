"""Read and write NIfTI files.

Voxels are read here rather than through nibabel's array proxy, which converts scaled data to float64, trusts
the size in the header before the size of the file, and stops before the gzip checksum, so that damaged
bytes remain undetected. Files are written atomically.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import IO, Any, cast

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from gcis_runtime.errors import ImageError
from gcis_runtime.images.grid import Grid
from gcis_runtime.images.nifti_header import FIX, Layout, read_layout
from gcis_runtime.images.volume import Decoded, Volume, check_file
from gcis_runtime.spec import label_dtype
from gcis_runtime.system import gzip_stream as gzipped
from gcis_runtime.system.atomic_files import replacing

_GZIP_MAGIC = b"\x1f\x8b"
_CHUNK = 1 << 24
_MAX_TRAILING = 1 << 20
"""Bytes accepted after the last voxel, since some writers pad files. More means a damaged header."""


def read_volume(path: str | os.PathLike[str]) -> Volume:
    """Read a CT volume from a NIfTI file; compression is detected from the content, not from the name.

    A 4-D file with one volume is accepted. Voxels are int16 where the stored type fits and the header has no
    scale factor, else float32.

    Raises:
        ImageError: The file is missing, a folder, not NIfTI, damaged, truncated or empty, holds several
            volumes, colour, complex or non-finite voxels, or has an invalid affine.
    """
    path = Path(path)
    return read_decoded(path).volume(path)


def read_decoded(path: Path) -> Decoded:
    """Read the voxels and the geometry of a NIfTI file; finiteness is not checked.

    Raises:
        ImageError: See `read_volume`.
    """
    check_file(path)
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == _GZIP_MAGIC
            raw.seek(0)
            if not zipped:
                return _read(raw, path, ratio=1)
            with gzipped.open_reader(raw) as stream:
                return _read(stream, path, ratio=gzipped.MAX_DEFLATE_RATIO)
    except gzipped.damage() as error:
        raise ImageError(f"{path} is damaged or truncated", received=str(error), fix=FIX) from error
    except PermissionError as error:
        raise _forbidden(path, error) from error


def _forbidden(path: Path, error: PermissionError) -> ImageError:
    return ImageError(f"{path} cannot be read", received=error.strerror, fix="Check its permissions.")


def voxel_bytes(path: Path) -> int:
    """Return the memory in bytes that the voxels of a file will take, from its header alone.

    Raises:
        ImageError: See `read_volume`.
    """
    layout = _layout_of(path)
    lean = layout.scaling is None and np.can_cast(layout.dtype, np.int16)
    return int(np.prod(layout.shape, dtype=np.int64)) * (2 if lean else 4)


def read_grid(path: Path) -> Grid:
    """Read shape and affine of a NIfTI file, from its header alone.

    Raises:
        ImageError: See `read_volume`.
    """
    layout = _layout_of(path)
    return Grid(shape=layout.shape, affine=layout.affine)


def _layout_of(path: Path) -> Layout:
    """Read the header of a file."""
    check_file(path)
    try:
        with path.open("rb") as raw:
            zipped = raw.read(2) == _GZIP_MAGIC
            raw.seek(0)
            with gzipped.open_reader(raw) if zipped else contextlib.nullcontext(raw) as stream:
                return read_layout(stream, path)
    except gzipped.damage() as error:
        raise ImageError(f"{path} is damaged or truncated", received=str(error), fix=FIX) from error
    except PermissionError as error:
        raise _forbidden(path, error) from error


def write_labels(path: str | os.PathLike[str], labels: NDArray[Any], *, like: Volume) -> None:
    """Write a label map with exactly the geometry of `like`: uint8, or uint16 when values exceed 255.

    Args:
        path: `.nii` or `.nii.gz`; written atomically.
        labels: Label values, shape (X, Y, Z) of `like`.
        like: The volume that was segmented.

    Raises:
        OutputError: The file cannot be written.
        ImageError: `labels` has a different shape from `like`.
    """
    _write(Path(path), lean_labels(labels, like=like), like=like)


def lean_labels(labels: NDArray[Any], *, like: Volume) -> NDArray[Any]:
    """Return a label map as uint8, or as uint16 when values exceed 255.

    Raises:
        ImageError: `labels` has a different shape from `like`.
    """
    if labels.shape != like.shape:
        raise ImageError(
            "label map and volume differ in shape", received=f"{labels.shape}", expected=f"{like.shape}"
        )
    dtype = np.dtype(label_dtype(int(labels.max(initial=0))))
    return labels.astype(dtype, copy=False)


def write_scaled(path: Path, array: NDArray[Any], *, slope: float, like: Volume) -> None:
    """Write voxels with the scale factor `slope` in the header, on the grid of `like`.

    Raises:
        OutputError: The file cannot be written.
    """
    _write(path, array, like=like, slope=slope)


def write_volume(path: str | os.PathLike[str], volume: Volume) -> None:
    """Write the voxels and the geometry of a volume as `.nii` or `.nii.gz`.

    Raises:
        OutputError: The file cannot be written.
    """
    _write(Path(path), volume.array, like=volume)


def _read(stream: IO[bytes], path: Path, *, ratio: int) -> Decoded:
    """Read header and voxels; `ratio` is the largest expansion that the compression allows."""
    layout = read_layout(stream, path)
    try:
        size = path.stat().st_size
        need = layout.offset + int(np.prod(layout.shape, dtype=np.int64)) * layout.dtype.itemsize
        if need > size * ratio:
            raise ImageError(
                "the file is truncated",
                received=f"{size} bytes",
                expected=f"{need} from its header",
                fix=FIX,
            )
        stream.seek(layout.offset)
        array = _voxels(stream, layout)
        _finish(stream)
        return Decoded(
            array=array,
            affine=layout.affine,
            header=layout.header,
            notes=layout.notes,
            slope=None if layout.scaling is None else layout.scaling[0],
        )
    except ImageError as error:
        raise error.named(path) from error


def _voxels(stream: IO[bytes], layout: Layout) -> NDArray[Any]:
    """Read voxels, (X, Y, Z) in Fortran order, and apply the scale of the header chunk by chunk."""
    fits = layout.scaling is None and np.can_cast(layout.dtype, np.int16)
    out: NDArray[Any] = np.empty(layout.shape, dtype=np.int16 if fits else np.float32, order="F")
    flat = out.reshape(-1, order="F")
    if layout.scaling is None and layout.dtype.newbyteorder("=") == out.dtype:
        _fill(stream, flat)
        return out if layout.dtype.isnative else out.byteswap(inplace=True)
    part = np.empty(min(flat.size, _CHUNK // layout.dtype.itemsize), dtype=layout.dtype)
    for first in range(0, flat.size, part.size):
        target = flat[first : first + part.size]
        _fill(stream, part[: target.size])
        with np.errstate(over="ignore", invalid="ignore"):  # results that are not finite are refused later
            target[...] = part[: target.size]
            if layout.scaling is not None:
                target *= np.float32(layout.scaling[0])
                target += np.float32(layout.scaling[1])
    return out


def _fill(stream: IO[bytes], array: NDArray[Any]) -> None:
    """Fill a contiguous array from a stream."""
    view = memoryview(cast("Any", array.view(np.uint8)))
    done = 0
    while done < len(view):
        got = stream.readinto(view[done : done + _CHUNK])  # type: ignore[attr-defined]
        if not got:
            raise ImageError(
                "the file is truncated",
                received=f"{done} bytes of voxels",
                expected=f"{len(view)} bytes",
                fix=FIX,
            )
        done += got


def _finish(stream: IO[bytes]) -> None:
    """Read to the end, so that gzip verifies its checksum; stop after `_MAX_TRAILING` bytes."""
    extra = 0
    while got := len(stream.read(1 << 16)):
        extra += got
        if extra > _MAX_TRAILING:
            raise ImageError(
                "the file continues after its last voxel",
                received=f"more than {_MAX_TRAILING} further bytes",
                expected="as many voxels as stated in the header",
                fix="Check the header's dim and datatype.",
            )


def label_image(array: NDArray[Any], *, like: Volume, slope: float = 1.0) -> Any:
    """Return a nibabel image with exactly the geometry of `like` and no other fields of its header.

    Args:
        array: (X, Y, Z) of `like`.
        like: The volume that defines the geometry; one read from NIfTI-2 results in NIfTI-2.
        slope: Scale factor for the header.
    """
    kind = nib.Nifti2Image if isinstance(like.header, nib.Nifti2Header) else nib.Nifti1Image
    if like.header is None:
        image = kind(array, like.affine)
        image.set_sform(like.affine, code=1)
        image.set_qform(like.affine, code=1)
    else:
        # nibabel keeps qform, sform and their codes unchanged when the affine equals that of the header.
        header = kind.header_class.from_header(like.header)
        for field in ("descrip", "aux_file", "intent_name"):
            header[field] = b""
        header["cal_min"], header["cal_max"], header["intent_code"] = 0, 0, 0
        header.extensions.clear()
        image = kind(array, like.affine, header)
    image.set_data_dtype(array.dtype)
    image.header.set_slope_inter(slope, 0)
    return image


def _write(path: Path, array: NDArray[Any], *, like: Volume, slope: float = 1.0) -> None:
    """Write `array` on the grid of `like`, compressed if the name ends in `.gz`."""
    image = label_image(array, like=like, slope=slope)
    with replacing(path) as temporary, temporary.open("wb") as raw:
        if path.name.lower().endswith(".gz"):
            with gzipped.open_writer(raw) as stream:
                _write_stream(stream, image, array)
        else:
            _write_stream(raw, image, array)


def _write_stream(stream: IO[bytes], image: Any, array: NDArray[Any]) -> None:
    """Write header and voxels in chunks of planes; nibabel's writer writes plane by plane."""
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
