"""Recognise DICOM files by their content, without pydicom."""

from __future__ import annotations

import itertools
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

from gcis_runtime.images.zip_members import list_members, read_start

_PREAMBLE, _MAGIC = 128, b"DICM"
_HEAD = 132
_LOOKED_AT = 200
"""Number of files of a folder or archive that are opened to decide whether it holds DICOM."""
_VRS = frozenset(
    b"AE AS AT CS DA DS DT FD FL IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT "
    b"UV".split()
)


def is_dicom(head: bytes) -> bool:
    """Return whether the first 132 bytes of a file are those of a DICOM file, with or without a preamble."""
    if head[_PREAMBLE:_HEAD] == _MAGIC:
        return True
    group, little = head[:2], head[1:2] == b"\0"
    if group not in (b"\x08\0", b"\0\x08", b"\x02\0"):
        return False
    if head[4:6] in _VRS:
        return True
    length = int.from_bytes(head[4:8], "little" if little else "big")
    return head[2:4] in (b"\0\0", b"\x05\0", b"\x08\0", b"\x16\0") and 0 < length <= 64


def is_dicom_file(path: Path) -> bool:
    """Return whether a file is a DICOM file; False if it cannot be read."""
    try:
        with path.open("rb") as file:
            return is_dicom(file.read(_HEAD))
    except OSError:
        return False


def holds_dicom(path: Path) -> bool:
    """Return whether a path is a DICOM file, or a folder or zip archive that contains one.

    Only the first files of a folder or an archive are opened. False if the path cannot be read.
    """
    try:
        if path.is_dir():
            return any(map(is_dicom_file, itertools.islice(files_below(path), _LOOKED_AT)))
        if not path.is_file():
            return False
        return is_dicom_file(path) or (zipfile.is_zipfile(path) and _zip_holds_dicom(path))
    except OSError:
        return False


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder in the order of their names, without following linked folders."""
    for root, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = Path(root, name)
            if not name.startswith(".") and path.is_file():
                yield path


def _zip_holds_dicom(path: Path) -> bool:
    try:
        return any(_is_dicom_member(path, member) for member in list_members(path)[:_LOOKED_AT])
    except (OSError, zipfile.BadZipFile, NotImplementedError):
        return False


def _is_dicom_member(path: Path, member: zipfile.ZipInfo) -> bool:
    try:
        return not member.flag_bits & 1 and is_dicom(read_start(path, member, _HEAD))
    except zipfile.BadZipFile:
        return False
