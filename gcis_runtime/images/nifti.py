"""Read and write NIfTI files.

Voxels are read here rather than through nibabel's array proxy, which converts scaled data to float64, trusts
the size in the header before the size of the file, and stops before the gzip checksum, so that damaged
bytes remain undetected. Files are written atomically.
"""

from __future__ import annotations

import contextlib
import gzip
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from gcis_runtime.errors import ImageError
from gcis_runtime.images.grid import Grid
from gcis_runtime.images.nifti_header import FIX, Layout, length_unit, read_layout
from gcis_runtime.images.nifti_pair import header_file, voxel_file
from gcis_runtime.images.volume import Decoded, Volume, check_file
from gcis_runtime.images.voxels import (
    BZIP2_MAGIC,
    CHUNK,
    GZIP_MAGIC,
    Stored,
    check_rows,
    damage,
    decode,
    finish,
    trailing_notes,
    uncompressed,
)
from gcis_runtime.spec import label_dtype
from gcis_runtime.system import gzip_stream as gzipped
from gcis_runtime.system.atomic_files import replacing


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
    path = header_file(path)
    check_file(path)
    try:
        with _open(path) as (stream, ratio):
            return _read(stream, path, ratio=ratio)
    except PermissionError as error:
        raise _forbidden(path, error) from error
    except damage() as error:
        raise ImageError(f"{path} is damaged or truncated", received=str(error), fix=FIX) from error


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
    path = header_file(path)
    check_file(path)
    try:
        with _open(path) as (stream, _):
            return read_layout(stream, path)
    except PermissionError as error:
        raise _forbidden(path, error) from error
    except damage() as error:
        raise ImageError(f"{path} is damaged or truncated", received=str(error), fix=FIX) from error


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
    stored = _stored(path, layout)
    try:
        if not layout.pair:
            _check_size(path, stored, ratio)
            stream.seek(stored.offset)
            array = decode(stream, stored)
            extra = finish(stream)
        else:
            with _open(stored.file) as (voxels, expansion):
                _check_size(stored.file, stored, expansion)
                voxels.seek(stored.offset)
                array = decode(voxels, stored)
                extra = finish(voxels)
        with stored.file.open("rb") as raw:
            packed = raw.read(3).startswith((GZIP_MAGIC, BZIP2_MAGIC))
        check_rows(array, stored, lambda: _second(stored), whole=not packed)
        return Decoded(
            array=array,
            affine=layout.affine,
            header=layout.header,
            notes=(*layout.notes, *trailing_notes(extra)),
            slope=None if layout.scaling is None else layout.scaling[0],
        )
    except ImageError as error:
        raise error.named(path) from error


def _stored(path: Path, layout: Layout) -> Stored:
    """Return location and form of the voxels; those of a pair are in the `.img` file."""
    file = voxel_file(path) if layout.pair else path
    return Stored(
        file=file, offset=layout.offset, shape=layout.shape, dtype=layout.dtype, scaling=layout.scaling
    )


def _check_size(path: Path, stored: Stored, ratio: int) -> None:
    """Raise an error if a file cannot hold the voxels of its header."""
    size, need = path.stat().st_size, stored.offset + stored.bytes
    if need > size * ratio:
        raise ImageError(
            "the file is truncated", received=f"{size} bytes", expected=f"{need} from its header", fix=FIX
        )


@contextlib.contextmanager
def _open(path: Path) -> Iterator[tuple[IO[bytes], int]]:
    """Open the uncompressed data of a file; yield it with the largest expansion of its compression."""
    with path.open("rb") as raw:
        start = raw.read(3)
        raw.seek(0)
        yield uncompressed(raw, start)


@contextlib.contextmanager
def _second(stored: Stored) -> Iterator[IO[bytes]]:
    """Open the voxels a second time, gzip with Python's zlib."""
    with stored.file.open("rb") as raw:
        start = raw.read(3)
        raw.seek(0)
        if start.startswith(GZIP_MAGIC):
            stream = cast("IO[bytes]", gzip.GzipFile(fileobj=raw, mode="rb"))
        else:
            stream = uncompressed(raw, start)[0]
        stream.seek(stored.offset)
        yield stream


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
        # In the units of the header: a label map has the numbers and the units of its image.
        affine = like.affine.copy()
        affine[:3] /= length_unit(header)
        image = kind(array, affine, header)
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
    planes = max(1, CHUNK // max(1, array[..., 0].size * stored.itemsize))
    for first in range(0, array.shape[-1], planes):
        part = array[..., first : first + planes].astype(stored, order="F", copy=False)
        stream.write(memoryview(cast("Any", part.reshape(-1, order="F").view(np.uint8))))
