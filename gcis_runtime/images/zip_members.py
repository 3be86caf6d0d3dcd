"""Read zip archives of strangers: directory and members within limits, whatever sizes the archive states."""

from __future__ import annotations

import bz2
import io
import struct
import zipfile
import zlib
from pathlib import Path

_HEADER = struct.Struct("<4s22xHH")  # signature, and the lengths of name and extra field
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)
"""Methods of compression whose output can be limited."""
_MOST_DIRECTORY = 32 << 20
"""Bytes of a directory, which `zipfile` reads as a whole and turns into objects of ten times the size."""
_MOST_START = 1 << 20
"""Compressed bytes that are read for the first bytes of a member; bzip2 needs a block of up to 900 kB."""


class _Directory(io.FileIO):
    """A file of which `zipfile` cannot read too much at once."""

    def read(self, size: int | None = -1, /) -> bytes:
        """Read, or raise BadZipFile."""
        if size is not None and size > _MOST_DIRECTORY:
            raise zipfile.BadZipFile("its directory is too large")
        return super().read(-1 if size is None else size)


def list_members(path: Path) -> list[zipfile.ZipInfo]:
    """Return the files of an archive.

    Raises:
        OSError: The file cannot be read.
        zipfile.BadZipFile: It is no archive, or its directory is damaged or too large.
        NotImplementedError: It needs a newer version of the format.
    """
    with _Directory(str(path)) as file, zipfile.ZipFile(file) as archive:
        return [member for member in archive.infolist() if not member.is_dir()]


def read_member(path: Path, entry: zipfile.ZipInfo) -> bytes:
    """Return a member after checking its size and checksum.

    Args:
        path: The archive.
        entry: The directory entry of the member.

    Raises:
        OSError: The file cannot be read.
        zipfile.BadZipFile: The member is damaged, or has another size than its entry states.
    """
    data = _inflated(entry, _stored(path, entry, entry.compress_size), entry.file_size + 1)
    if len(data) != entry.file_size:
        raise zipfile.BadZipFile("a member has another size than its directory entry")
    if zlib.crc32(data) != entry.CRC:
        raise zipfile.BadZipFile("a member is damaged")
    return data


def read_start(path: Path, entry: zipfile.ZipInfo, count: int) -> bytes:
    """Return the first bytes of a member; see `read_member`."""
    return _inflated(entry, _stored(path, entry, min(entry.compress_size, _MOST_START)), count)


def _inflated(entry: zipfile.ZipInfo, data: bytes, most: int) -> bytes:
    """Return at most a number of bytes; `zipfile` inflates a whole block of bzip2, 100,000 times its size."""
    try:
        if entry.compress_type == zipfile.ZIP_STORED:
            return data[:most]
        if entry.compress_type == zipfile.ZIP_DEFLATED:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, most)
        if entry.compress_type == zipfile.ZIP_BZIP2:
            return bz2.BZ2Decompressor().decompress(data, most)
    except (zlib.error, OSError, EOFError) as error:
        raise zipfile.BadZipFile("a member is damaged") from error
    raise zipfile.BadZipFile("a member is compressed by a method that is not supported")


def _stored(path: Path, entry: zipfile.ZipInfo, count: int) -> bytes:
    """Return the first bytes of a member as they are stored."""
    with path.open("rb") as file:
        try:
            file.seek(entry.header_offset)
        except (ValueError, OverflowError) as error:
            raise zipfile.BadZipFile("a member has no header") from error
        head = file.read(_HEADER.size)
        if len(head) < _HEADER.size or not head.startswith(b"PK\x03\x04"):
            raise zipfile.BadZipFile("a member has no header")
        _, name, extra = _HEADER.unpack(head)
        file.seek(name + extra, 1)
        return file.read(count)
