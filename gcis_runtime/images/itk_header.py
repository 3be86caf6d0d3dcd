"""Parse the headers of NRRD and MetaImage files, independently of the locale of the process.

ITK parses numbers with the decimal separator of the locale, replaces missing or misspelt fields by defaults,
and returns uninitialised memory for damaged MetaImage files. Header and voxels are therefore read without it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.errors import ImageError
from gcis_runtime.images.contents import refuse_pointer
from gcis_runtime.images.voxels import Stored

FIX = "Check that it is complete, or convert it to NIfTI."
HEADER_BYTES = 1 << 20
MM = {
    "mm": 1.0, "millimeter": 1.0, "millimeters": 1.0, "cm": 10.0, "m": 1000.0, "meter": 1000.0,
    "meters": 1000.0, "um": 1e-3, "\N{MICRO SIGN}m": 1e-3, "micron": 1e-3, "microns": 1e-3,
    "micrometer": 1e-3,
}  # fmt: skip
"""Millimetres per unit of length that a header may state."""
LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
Fields = Mapping[str, str]
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
"""Decimal numbers; Python's `float` also accepts underscores and the digits of other scripts."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ItkHeader:
    """The header of an NRRD or MetaImage file.

    Attributes:
        stored: Location and form of the voxels, all axes.
        encoding: `raw`, `gzip`, `bzip2`, `zlib` (or gzip), `text` or `hex`.
        affine: (4, 4) float64, voxel index to RAS+ mm.
        notes: Values that were missing, replaced or converted.
    """

    stored: Stored
    encoding: str
    affine: NDArray[np.float64]
    notes: tuple[str, ...]


def damaged(path: Path, received: str, expected: str | None = None) -> ImageError:
    """Return the error for a header with an invalid field."""
    return ImageError(f"{path} has a damaged header", received=received, expected=expected, fix=FIX)


def numbers(path: Path, key: str, text: str, count: int | None) -> list[float]:
    """Return the numbers of a field; `.` is the decimal separator in every locale.

    Args:
        path: The file, for the message.
        key: Name of the field.
        text: Its value, separated by white space or commas followed by white space.
        count: Expected number of values; None for any.

    Raises:
        ImageError: A value is no finite number, or the count differs.
    """
    values = [float(word) if _NUMBER.fullmatch(word) else math.nan for word in text.split()]
    if not all(map(math.isfinite, values)) or (count is not None and len(values) != count):
        expected = "finite numbers" if count is None else f"{count} finite numbers"
        raise damaged(path, f"{key}: {text[:60]!r}", expected)
    return values


def sizes(path: Path, key: str, text: str) -> tuple[int, ...]:
    """Return the numbers of voxels along the axes; raise an error unless they are plain whole numbers."""
    if not re.fullmatch(r"[0-9]{1,10}([ \t]+[0-9]{1,10}){0,8}", text):
        raise damaged(path, f"{key} = {text[:40]!r}", "whole numbers of voxels")
    return tuple(map(int, text.split()))


def positive(path: Path, key: str, values: Sequence[float]) -> None:
    """Raise an error unless all voxel sizes are above 0."""
    if not all(value > 0 for value in values):
        raise damaged(path, f"{key} = {' '.join(f'{v:g}' for v in values)}", "voxel sizes above 0")


def detached(path: Path, name: str) -> Path:
    """Return the file of voxels that a header names, in the folder of the header or below it.

    A header from elsewhere could otherwise name any file of this machine, whose bytes would become voxels.

    Raises:
        ImageError: Several files, a file elsewhere, or no regular file of this name.
    """
    if name.upper().startswith("LIST") or "%" in name or not name:
        raise ImageError(
            f"{path}: the voxels are in several files", received=repr(name), expected="one file", fix=FIX
        )
    places = (PurePosixPath(name), PureWindowsPath(name))
    if any(place.anchor or ".." in place.parts for place in places):
        raise ImageError(
            f"{path}: the voxels are in another folder",
            received=repr(name[:80]),
            expected="a file in the folder of the header",
            fix="Move both files into one folder, and write only the name of the file into the header.",
        )
    file = path.parent / name
    if "\0" in name or not file.is_file():  # a pipe would block for ever
        raise ImageError(f"{path} cannot be read", received=f"no file {name}", fix=FIX)
    refuse_pointer(file)
    return file


def lines_of(path: Path, file: IO[bytes]) -> list[str]:
    """Return the lines of a header up to an empty line or the line of `ElementDataFile`; `file` stays there.

    Raises:
        ImageError: The header is longer than `HEADER_BYTES`.
    """
    lines: list[str] = []
    while line := file.readline(HEADER_BYTES):
        text = line.decode("utf-8", "replace").strip("\r\n")
        if not text.strip():
            break
        lines.append(text)
        if text.partition("=")[0].strip() == "ElementDataFile":
            break
        if file.tell() > HEADER_BYTES:
            raise damaged(path, f"more than {HEADER_BYTES} bytes", "a header of text")
    return lines


def one_place(path: Path, fields: dict[str, str], key: str, value: str) -> None:
    """Add a field to a header; raise an error if it has another value already."""
    if fields.get(key, value) != value:
        raise damaged(path, f"{key} twice: {fields[key][:40]!r} and {value[:40]!r}", "one value")
    fields[key] = value


def affine_of(
    linear: NDArray[np.float64], origin: Sequence[float], axes: NDArray[Any]
) -> NDArray[np.float64]:
    """Return the affine (4, 4) to RAS+ mm.

    Args:
        linear: (3, 3); column k is the step in mm along voxel axis k.
        origin: Position of the first voxel in mm.
        axes: (4, 4), from the axes of the file's space to RAS+.
    """
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = linear, origin
    return np.asarray(axes @ affine, dtype=np.float64)


def in_mm(path: Path, key: str, unit: str, notes: list[str]) -> float:
    """Return millimetres per unit, and add a note unless the unit is mm; an unknown unit is an error."""
    factor = MM.get(unit.strip().strip('"').lower().replace("\N{GREEK SMALL LETTER MU}", "\N{MICRO SIGN}"))
    if factor is None:
        raise damaged(path, f"{key}: {unit[:30]!r}", "mm, cm, m or um")
    if factor != 1.0:
        notes.append(f"the header states lengths in {unit.strip()}: converted to mm")
    return factor
