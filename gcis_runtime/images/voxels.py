"""Read voxels from a stream, account for every byte, and compare a few rows with a second reading."""

from __future__ import annotations

import bz2
import io
import zlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.errors import ImageError
from gcis_runtime.system import gzip_stream as gzipped
from gcis_runtime.text import counted

FIX = "Check that the file is complete."
GZIP_MAGIC, BZIP2_MAGIC = b"\x1f\x8b", b"BZh"
CHUNK = 1 << 24
MAX_TRAILING = 1 << 20
"""Bytes accepted after the last voxel, since some writers pad files. More means a damaged header."""
MAX_BZIP2_RATIO = 1 << 20
"""bzip2 shrinks 45 MB of one value to 45 bytes."""
_ROWS_WITHIN = 1 << 24
"""Bytes of a compressed file that are decompressed a second time to compare rows."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Location and form of the voxels of a file.

    Attributes:
        file: The file that holds them.
        offset: Position of the first voxel: in the file, or for NIfTI in the uncompressed data, bytes.
        shape: Voxels along the axes, the fastest first.
        dtype: Stored type, in the byte order of the file.
        scaling: Slope and intercept from stored values to HU; None for slope 1 and intercept 0.
        compressed_bytes: Length of the compressed voxels as stated by the header; None if not stated.
    """

    file: Path
    offset: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    scaling: tuple[float, float] | None = None
    compressed_bytes: int | None = None

    @property
    def bytes(self) -> int:
        """Bytes of the uncompressed voxels."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize


def decode(stream: IO[bytes], stored: Stored) -> NDArray[Any]:
    """Read voxels, (X, Y, Z) in Fortran order, int16 or float32, and apply the scale of the header.

    Args:
        stream: The uncompressed data at the first voxel.
        stored: Form of the voxels.

    Raises:
        ImageError: The stream has fewer voxels, or more than `MAX_TRAILING` further bytes.
    """
    fits = stored.scaling is None and np.can_cast(stored.dtype, np.int16)
    out: NDArray[Any] = np.empty(stored.shape, dtype=np.int16 if fits else np.float32, order="F")
    flat = out.reshape(-1, order="F")
    if stored.scaling is None and stored.dtype.newbyteorder("=") == out.dtype:
        _fill(stream, flat)
        return out if stored.dtype.isnative else out.byteswap(inplace=True)
    part = np.empty(min(flat.size, CHUNK // stored.dtype.itemsize), dtype=stored.dtype)
    for first in range(0, flat.size, part.size):
        target = flat[first : first + part.size]
        _fill(stream, part[: target.size])
        target[...] = _scaled(part[: target.size], stored)
    return out


def finish(stream: IO[bytes]) -> int:
    """Read to the end, so that checksums are verified, and return the bytes after the last voxel.

    Raises:
        ImageError: The stream continues after `MAX_TRAILING` bytes.
    """
    extra = 0
    while got := len(stream.read(1 << 16)):
        extra += got
        if extra > MAX_TRAILING:
            raise ImageError(
                "the file continues after its last voxel",
                received=f"more than {MAX_TRAILING} further bytes",
                expected="as many voxels as stated in the header",
                fix="Check the header's size and voxel type.",
            )
    return extra


def trailing_notes(extra: int) -> tuple[str, ...]:
    """Return a note if bytes follow the last voxel; the size in the header may then be wrong."""
    if not extra:
        return ()
    return (f"the file continues for {counted(extra, 'byte')} after its last voxel: is the size correct?",)


def check_rows(
    array: NDArray[Any],
    stored: Stored,
    reopen: Callable[[], AbstractContextManager[IO[bytes]]],
    *,
    whole: bool,
) -> None:
    """Compare the first, middle and last row of decoded voxels with a second reading of the file.

    Args:
        array: Decoded voxels (X, Y, Z).
        stored: Form of the voxels.
        reopen: Opens the uncompressed data at the first voxel, by another way than the decoder used.
        whole: Whether seeking is cheap; otherwise only rows within the first `_ROWS_WITHIN` bytes are read.

    Raises:
        ImageError: Shape or a row differ.
    """
    if array.shape != stored.shape:
        raise ImageError("the decoded voxels have a wrong shape", received=f"{array.shape}", fix=FIX)
    width, size = stored.shape[0], stored.dtype.itemsize
    rows = int(np.prod(stored.shape[1:], dtype=np.int64))
    last = rows - 1 if whole else min(rows - 1, max(0, _ROWS_WITHIN // (width * size) - 1))
    lines = array.reshape((width, rows), order="F")
    with reopen() as stream:
        position = 0
        for row in sorted({0, last // 2, last}):
            skip = row * width * size - position
            if whole:
                stream.seek(skip, io.SEEK_CUR)
            else:
                stream.read(skip)
            data = stream.read(width * size)
            position = (row + 1) * width * size
            again = _scaled(np.frombuffer(data, dtype=stored.dtype), stored).astype(array.dtype)
            if not np.array_equal(again, lines[:, row], equal_nan=array.dtype.kind == "f"):
                raise ImageError(
                    "two readings of the file differ",
                    received=f"other voxels in row {row} of {rows}",
                    expected="equal voxels",
                    fix="Check the disk, and that no program is writing the file.",
                )


class Inflate(io.RawIOBase):
    """A stream of zlib data at the position of a file, limited to a stated number of compressed bytes.

    Args:
        raw: The file at the first compressed byte.
        limit: Compressed bytes; None for the rest of the file.
    """

    def __init__(self, raw: IO[bytes], limit: int | None) -> None:
        super().__init__()
        self._raw, self._limit, self._taken = raw, limit, 0
        self._inflate = zlib.decompressobj(wbits=47)  # zlib or gzip

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer; raise `EOFError` if the data end before their checksum."""
        view = memoryview(buffer).cast("B")
        while not self._inflate.eof and len(view):
            chunk = self._inflate.unconsumed_tail or self._next()
            data = self._inflate.decompress(chunk, len(view)) if chunk else b""
            if data:
                view[: len(data)] = data
                return len(data)
            if not chunk:
                raise EOFError("compressed voxels end before their checksum")
        return 0

    def used(self) -> int:
        """Return the compressed bytes up to the end of the data, checksum included."""
        return self._taken - len(self._inflate.unused_data) - len(self._inflate.unconsumed_tail)

    def _next(self) -> bytes:
        most = 1 << 20 if self._limit is None else min(1 << 20, self._limit - self._taken)
        chunk = self._raw.read(max(most, 0))
        self._taken += len(chunk)
        return chunk


def uncompressed(raw: IO[bytes], start: bytes) -> tuple[IO[bytes], int]:
    """Return the stream of the uncompressed bytes of a file, and the largest expansion of its compression.

    Args:
        raw: The file at its start.
        start: Its first bytes.
    """
    if start.startswith(GZIP_MAGIC):
        return gzipped.open_reader(raw), gzipped.MAX_DEFLATE_RATIO
    if start.startswith(BZIP2_MAGIC):
        return cast("IO[bytes]", bz2.BZ2File(raw)), MAX_BZIP2_RATIO
    return raw, 1


def damage() -> tuple[type[Exception], ...]:
    """Return the exceptions that are raised when a damaged, truncated or unreadable file is read."""
    return (*gzipped.damage(), OSError)


def _scaled(values: NDArray[Any], stored: Stored) -> NDArray[Any]:
    """Return stored values in HU; those that are not finite are refused later."""
    if stored.scaling is None:
        with np.errstate(over="ignore", invalid="ignore"):
            return values.astype(np.int16 if np.can_cast(values.dtype, np.int16) else np.float32, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        scaled = values.astype(np.float32)
        scaled *= np.float32(stored.scaling[0])
        scaled += np.float32(stored.scaling[1])
        return scaled


def _fill(stream: IO[bytes], array: NDArray[Any]) -> None:
    """Fill a contiguous array from a stream."""
    view = memoryview(cast("Any", array.view(np.uint8)))
    done = 0
    while done < len(view):
        got = stream.readinto(view[done : done + CHUNK])  # type: ignore[attr-defined]
        if not got:
            raise ImageError(
                "the file is truncated",
                received=f"{done} bytes of voxels",
                expected=f"{len(view)} bytes",
                fix=FIX,
            )
        done += got
