"""Read NRRD and MetaImage files without ITK: header, voxels and checksums, in any locale."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.errors import ImageError
from gcis_runtime.images.grid import Grid
from gcis_runtime.images.itk_header import FIX, ItkHeader
from gcis_runtime.images.metaimage import read_metaimage
from gcis_runtime.images.nrrd import read_nrrd
from gcis_runtime.images.suffixes import NRRD, suffix_of
from gcis_runtime.images.volume import Decoded, check_affine, check_file, check_shape, spatial_shape
from gcis_runtime.images.voxels import (
    GZIP_MAGIC,
    MAX_BZIP2_RATIO,
    Inflate,
    Stored,
    check_rows,
    damage,
    decode,
    finish,
    trailing_notes,
)
from gcis_runtime.system import gzip_stream as gzipped

_RATIO = {"raw": 1, "text": 1, "hex": 1, "bzip2": MAX_BZIP2_RATIO}
_SAMPLE = 40
"""Most characters per voxel of text that are read."""
_TEXT_BYTES = 150
"""Memory per voxel while text is parsed: its characters, a word object and a float64."""


def read_decoded(path: Path) -> Decoded:
    """Read the voxels and the geometry of an NRRD or MetaImage file; finiteness is not checked.

    A 4-D file with one volume is accepted.

    Raises:
        ImageError: The file is missing, damaged, truncated, or not one volume.
    """
    header = read_header(path)
    try:
        array, notes = _voxels(header)
        return Decoded(array=array, affine=header.affine, notes=(*header.notes, *notes))
    except damage() as error:
        if isinstance(error, PermissionError):
            raise _forbidden(path, error) from error
        raise ImageError(f"{path} is damaged or truncated", received=str(error), fix=FIX) from error
    except ImageError as error:
        raise error.named(path) from error


def read_grid(path: Path) -> Grid:
    """Read shape and affine of an NRRD or MetaImage file, from its header alone.

    Raises:
        ImageError: See `read_decoded`.
    """
    header = read_header(path)
    return Grid(shape=header.stored.shape, affine=header.affine)


def voxel_bytes(path: Path) -> int:
    """Return the memory in bytes that the voxels of a file will take, from its header alone.

    Raises:
        ImageError: See `read_decoded`.
    """
    header = read_header(path)
    lean = 2 if np.can_cast(header.stored.dtype, np.int16) else 4
    return math.prod(header.stored.shape) * (
        lean + (_TEXT_BYTES if header.encoding in ("text", "hex") else 0)
    )


def read_header(path: Path) -> ItkHeader:
    """Read a header, and compare its size with that of the file.

    Raises:
        ImageError: See `read_decoded`.
    """
    check_file(path)
    try:
        header = read_nrrd(path) if suffix_of(path) in NRRD else read_metaimage(path)
        stored = header.stored
        shape = spatial_shape(stored.shape)
        check_shape(shape)
        check_affine(header.affine)
        size = stored.file.stat().st_size - stored.offset
        if stored.bytes > max(size, 0) * _RATIO.get(header.encoding, gzipped.MAX_DEFLATE_RATIO):
            raise ImageError(
                "the file is truncated",
                received=f"{size} bytes",
                expected=f"{stored.bytes} bytes of voxels from its header",
                fix=FIX,
            )
        return replace(header, stored=replace(stored, shape=shape))
    except PermissionError as error:
        raise _forbidden(path, error) from error
    except ImageError as error:
        raise error if str(path) in error.message else error.named(path) from error


def _voxels(header: ItkHeader) -> tuple[NDArray[Any], tuple[str, ...]]:
    """Read voxels (X, Y, Z), to the end of the file and the checksum; also return notes."""
    stored = header.stored
    if header.encoding in ("text", "hex"):
        return _written_out(header), ()
    with stored.file.open("rb") as raw:
        raw.seek(stored.offset)
        stream, inflate = _opened(raw, header)
        array = decode(stream, stored)
        extra = finish(stream)
        if inflate is not None:
            _check_length(inflate, stored)
            extra += stored.file.stat().st_size - stored.offset - inflate.used()
    check_rows(array, stored, lambda: _second(header), whole=header.encoding == "raw")
    return array, trailing_notes(extra)


def _opened(raw: IO[bytes], header: ItkHeader) -> tuple[IO[bytes], Inflate | None]:
    """Return the stream of uncompressed voxels; for zlib also the reader that counts compressed bytes."""
    if header.encoding == "raw":
        return raw, None
    if header.encoding == "bzip2":
        return cast("IO[bytes]", bz2.BZ2File(raw)), None
    place = raw.tell()
    gzip_data = raw.read(2) == GZIP_MAGIC
    raw.seek(place)
    if header.encoding == "gzip" and gzip_data:
        return gzipped.open_reader(raw), None
    inflate = Inflate(raw, header.stored.compressed_bytes)
    return cast("IO[bytes]", io.BufferedReader(inflate)), inflate


def _check_length(inflate: Inflate, stored: Stored) -> None:
    """Raise an error if the length of the compressed voxels differs from that of the header."""
    if stored.compressed_bytes not in (None, inflate.used()):
        raise ImageError(
            "CompressedDataSize differs from the length of the compressed voxels",
            received=f"CompressedDataSize = {stored.compressed_bytes}",
            expected=f"{inflate.used()}",
            fix=FIX,
        )


@contextlib.contextmanager
def _second(header: ItkHeader) -> Iterator[IO[bytes]]:
    """Open the voxels a second time, gzip with Python's zlib."""
    with header.stored.file.open("rb") as raw:
        raw.seek(header.stored.offset)
        if header.encoding == "gzip" and raw.read(2) == GZIP_MAGIC:
            raw.seek(header.stored.offset)
            yield cast("IO[bytes]", gzip.GzipFile(fileobj=raw, mode="rb"))
            return
        raw.seek(header.stored.offset)
        yield _opened(raw, header)[0]


def _written_out(header: ItkHeader) -> NDArray[Any]:
    """Read voxels that are stored as text, in decimal or hexadecimal numbers."""
    stored = header.stored
    count = math.prod(stored.shape)
    with stored.file.open("rb") as file:
        file.seek(stored.offset)
        text = file.read(count * _SAMPLE + 1)
    try:
        if header.encoding == "hex":
            values = np.frombuffer(bytes.fromhex(re.sub(rb"\s", b"", text).decode("ascii")), stored.dtype)
        else:
            if b"_" in text:  # which `float` accepts
                raise ValueError("a number with an underscore")
            numbers = np.array([float(word) for word in re.split(rb"[\s,]+", text.strip())])
            values = numbers.astype(stored.dtype)
            if not np.array_equal(values, numbers, equal_nan=True) and stored.dtype.kind in "iu":
                raise ValueError("values beyond the voxel type")
    except (ValueError, UnicodeDecodeError) as error:
        raise ImageError("the voxels are damaged", received=str(error)[:80], fix=FIX) from error
    if values.size != count:
        raise ImageError(
            "the file is truncated or damaged", received=f"{values.size} voxels", expected=f"{count}", fix=FIX
        )
    return decode(io.BytesIO(values.tobytes()), stored)


def _forbidden(path: Path, error: PermissionError) -> ImageError:
    return ImageError(f"{path} cannot be read", received=error.strerror, fix="Check its permissions.")
