"""Locate the voxels of NRRD and MetaImage files, and verify compressed voxels.

ITK verifies no checksums. If a MetaImage file cannot be inflated or names an empty list of files, ITK returns
uninitialised memory. Files are therefore verified here before ITK reads them.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from gcis_runtime.errors import ImageError

FIX = "Check that it is complete, or convert it to NIfTI."
_HEADER_BYTES = 1 << 20
_CHUNK = 1 << 20
_MOST_AXES, _LONGEST_TEXT = 9, 254
_SHORT_TEXTS = (
    "ObjectType", "ObjectSubType", "TransformType", "Name", "Comment", "AcquisitionDate", "DistanceUnits",
    "AnatomicalOrientation", "Modality", "ElementType",
)  # fmt: skip
_SKIPS = ("byte skip", "line skip", "HeaderSize")
_LOCAL = ("LOCAL", "Local", "local")
_ELEMENTS = tuple(
    f"MET_{name}"
    for name in (
        "CHAR", "UCHAR", "SHORT", "USHORT", "INT", "UINT", "LONG", "ULONG", "LONG_LONG", "ULONG_LONG",
        "FLOAT", "DOUBLE",
    )
)  # fmt: skip
"""Element types of real numbers; ITK also reads others as numbers, such as strings."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Location of the voxels.

    Attributes:
        file: The file that holds them.
        offset: Position of the first voxel in bytes.
        deflated: Whether they are compressed with zlib or gzip.
    """

    file: Path
    offset: int
    deflated: bool


def check_metaimage(path: Path) -> None:
    """Raise an error for MetaImage headers that overflow ITK's buffers, which can end the process.

    ITK has room for ten axes and for strings of 255 characters.

    Raises:
        ImageError: More axes or a longer string.
    """
    with path.open("rb") as header:
        fields, _ = _metaimage(header)
    axes = fields.get("NDims", "")
    if not (axes.isascii() and axes.isdigit() and 1 <= int(axes[:3]) <= _MOST_AXES):
        raise ImageError(
            f"{path} has a damaged header", received=f"NDims = {axes[:20]!r}", expected="3", fix=FIX
        )
    for key, value in fields.items():
        if len(key) > _LONGEST_TEXT or (key in _SHORT_TEXTS and len(value) > _LONGEST_TEXT):
            raise ImageError(
                f"{path} has a damaged header",
                received=f"{len(key) + len(value)} characters in {key[:20]!r}",
                expected=f"at most {_LONGEST_TEXT}",
                fix=FIX,
            )


def find_voxels(path: Path) -> Stored:
    """Read the location of the voxels from a header.

    Args:
        path: A `.nrrd`, `.mha` or `.mhd` file.

    Raises:
        ImageError: The voxels are in several files or in none, or are not real numbers.
    """
    with path.open("rb") as header:
        fields, offset = _nrrd(header) if path.suffix.lower() == ".nrrd" else _metaimage(header)
    kind = fields.get("ElementType")
    if kind is not None and kind.removesuffix("_ARRAY") not in _ELEMENTS:
        raise ImageError(f"{path}: the voxels are not real numbers", received=kind, expected="MET_SHORT, …")
    compressed = fields.get("CompressedData", "")[:1]
    deflated = fields.get("encoding", "").lower() in {"gz", "gzip"} or compressed in {"T", "t", "1"}
    skipped = [f"{key}: {fields[key]}" for key in _SKIPS if fields.get(key, "0") != "0"]
    if deflated and skipped:
        raise ImageError(
            f"{path}: bytes before compressed voxels are not supported", received=skipped[0], fix=FIX
        )
    name = fields.get("ElementDataFile", fields.get("data file", "LOCAL"))
    if name in _LOCAL:
        return Stored(file=path, offset=offset, deflated=deflated)
    if name.startswith("LIST") or "%" in name or not name:
        raise ImageError(
            f"{path}: the voxels are in several files", received=repr(name), expected="one file", fix=FIX
        )
    file = path.parent / name
    if not file.is_file():  # a pipe would block for ever
        raise ImageError(f"{path} cannot be read", received=f"no file {name}", fix=FIX)
    return Stored(file=file, offset=0, deflated=deflated)


def check_voxels(path: Path, stored: Stored, size: int) -> None:
    """Decompress the voxels and verify their length and checksum.

    Args:
        path: The image, for messages.
        stored: Location of the voxels.
        size: Expected bytes.

    Raises:
        ImageError: The voxels are damaged, too few or too many.
    """
    if not stored.deflated:
        return
    found, inflate = 0, zlib.decompressobj(wbits=47)  # zlib or gzip
    try:
        with stored.file.open("rb") as file:
            file.seek(stored.offset)
            while not inflate.eof and found <= size:
                chunk = inflate.unconsumed_tail or file.read(_CHUNK)
                found += len(inflate.decompress(chunk, _CHUNK) if chunk else inflate.flush())
                if not chunk:
                    break
    except zlib.error as error:
        raise ImageError(f"{path} is damaged", received=str(error), fix=FIX) from error
    if not inflate.eof or found != size:
        raise ImageError(
            f"{path} is damaged or truncated",
            received=f"{'more than ' if found > size else ''}{found} bytes of voxels",
            expected=f"{size} from its header",
            fix=FIX,
        )


def _metaimage(file: IO[bytes]) -> tuple[dict[str, str], int]:
    """Return the fields of a header and its end: after the line that names the file of the voxels."""
    fields: dict[str, str] = {}
    while file.tell() < _HEADER_BYTES and (line := file.readline(_HEADER_BYTES)):
        key, _, value = line.decode("latin-1").partition("=")
        fields[key.strip()] = value.strip()
        if key.strip() == "ElementDataFile":
            break
    return fields, file.tell()


def _nrrd(file: IO[bytes]) -> tuple[dict[str, str], int]:
    """Return the fields of a header and its end: after an empty line."""
    fields: dict[str, str] = {}
    while file.tell() < _HEADER_BYTES and (line := file.readline(_HEADER_BYTES)).strip():
        key, separator, value = line.decode("latin-1").partition(":")
        key = key.strip().lower()
        if separator and not key.startswith("#") and not value.startswith("="):
            fields["data file" if key == "datafile" else key] = value.strip()
    return fields, file.tell()
