"""Read members of zip archives by their directory entries, without reading the directory for each of them."""

from __future__ import annotations

import struct
import zipfile
import zlib
from pathlib import Path

_HEADER = struct.Struct("<4s22xHH")  # signature, and the lengths of name and extra field


def read_member(path: Path, entry: zipfile.ZipInfo) -> bytes:
    """Return a member after checking its size and checksum.

    Args:
        path: The archive.
        entry: The directory entry of the member.

    Raises:
        OSError: The file cannot be read.
        zipfile.BadZipFile: The member is damaged, or has another size than its entry states.
    """
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(path) as archive, archive.open(entry) as member:
            data = member.read(entry.file_size + 1)
    else:
        data = _stored(path, entry)
        if entry.compress_type == zipfile.ZIP_DEFLATED:
            try:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, entry.file_size + 1)
            except zlib.error as error:
                raise zipfile.BadZipFile("a member is damaged") from error
    if len(data) != entry.file_size:
        raise zipfile.BadZipFile("a member has another size than its directory entry")
    if zlib.crc32(data) != entry.CRC:
        raise zipfile.BadZipFile("a member is damaged")
    return data


def _stored(path: Path, entry: zipfile.ZipInfo) -> bytes:
    """Return a member as it is stored."""
    with path.open("rb") as file:
        file.seek(entry.header_offset)
        head = file.read(_HEADER.size)
        if len(head) < _HEADER.size or not head.startswith(b"PK\x03\x04"):
            raise zipfile.BadZipFile("a member has no header")
        _, name, extra = _HEADER.unpack(head)
        file.seek(name + extra, 1)
        return file.read(entry.compress_size)
