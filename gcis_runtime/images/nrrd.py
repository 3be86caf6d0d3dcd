"""Parse NRRD headers (`.nrrd`, and `.nhdr` with the voxels in another file)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.errors import ImageError
from gcis_runtime.images.contents import HEAD, refuse_known
from gcis_runtime.images.itk_header import (
    FIX,
    LPS_TO_RAS,
    Fields,
    ItkHeader,
    affine_of,
    damaged,
    detached,
    in_mm,
    lines_of,
    numbers,
    one_place,
    positive,
    sizes,
)
from gcis_runtime.images.voxels import Stored

_TYPES = {
    "i1": "signed char|int8|int8_t",
    "u1": "uchar|unsigned char|uint8|uint8_t",
    "i2": "short|short int|signed short|signed short int|int16|int16_t",
    "u2": "ushort|unsigned short|unsigned short int|uint16|uint16_t",
    "i4": "int|signed int|int32|int32_t",
    "u4": "uint|unsigned int|uint32|uint32_t",
    "i8": "longlong|long long|long long int|signed long long|signed long long int|int64|int64_t",
    "u8": "ulonglong|unsigned long long|unsigned long long int|uint64|uint64_t",
    "f4": "float",
    "f8": "double",
}
_KINDS = {name: kind for kind, names in _TYPES.items() for name in names.split("|")}
_ENCODINGS = {
    "raw": "raw", "gz": "gzip", "gzip": "gzip", "bz2": "bzip2", "bzip2": "bzip2", "txt": "text",
    "text": "text", "ascii": "text", "hex": "hex",
}  # fmt: skip
_SPACES = {
    "left-posterior-superior": LPS_TO_RAS, "lps": LPS_TO_RAS,
    "right-anterior-superior": np.eye(4), "ras": np.eye(4),
    "left-anterior-superior": np.diag([-1.0, 1.0, 1.0, 1.0]), "las": np.diag([-1.0, 1.0, 1.0, 1.0]),
}  # fmt: skip
_UNSAID = "the NRRD header has no space field: the orientation is a guess"


def read_nrrd(path: Path) -> ItkHeader:
    """Read and check a header; geometry that is missing becomes a note.

    Raises:
        ImageError: A field is missing or invalid, the voxels are in several files or in none, or are not real
            numbers.
    """
    with path.open("rb") as file:
        refuse_known(path, file.read(HEAD))
        file.seek(0)
        if not file.read(8).startswith(b"NRRD000"):
            raise ImageError(
                f"{path} cannot be read", received="no NRRD header", expected="NRRD0001 to NRRD0005", fix=FIX
            )
        file.seek(0)
        fields: dict[str, str] = {}
        for line in lines_of(path, file)[1:]:
            key, separator, value = line.partition(":")
            if separator and not line.startswith("#") and not value.startswith("="):
                name = key.strip().lower().replace("datafile", "data file").replace("lineskip", "line skip")
                one_place(path, fields, name.replace("byteskip", "byte skip"), value.strip())
        stored, encoding = _voxels(path, fields, file)
    notes: list[str] = []
    affine = _affine(path, fields, stored.shape, notes) if len(stored.shape) >= 3 else np.eye(4)
    return ItkHeader(stored=stored, encoding=encoding, affine=affine, notes=tuple(notes))


def _voxels(path: Path, fields: Fields, header: IO[bytes]) -> tuple[Stored, str]:
    """Return location, form and encoding of the voxels; `header` is open at its end."""
    missing = [key for key in ("type", "dimension", "sizes", "encoding") if key not in fields]
    if missing:
        raise ImageError(
            f"{path} cannot be read", received=f"no field {missing[0]!r}", expected="an NRRD header", fix=FIX
        )
    shape = sizes(path, "sizes", fields["sizes"])
    if sizes(path, "dimension", fields["dimension"]) != (len(shape),):
        raise damaged(
            path, f"dimension: {fields['dimension']}, sizes: {fields['sizes'][:40]}", "one size per axis"
        )
    kind = _KINDS.get(fields["type"].lower())
    if kind is None:
        raise ImageError(
            f"{path}: the voxels are not real numbers",
            received=fields["type"][:40],
            expected="short, …",
            fix=FIX,
        )
    size = np.dtype(kind).itemsize
    first = (fields.get("kinds", "").split() or ["domain"])[0].lower()
    if first not in ("domain", "space", "???", "none") and len(shape) > 3:
        raise ImageError(
            f"{path}: the voxels are not real numbers",
            received=f"{first} of {8 * size}-bit values",
            expected="integers or floats",
        )
    encoding = _ENCODINGS.get(fields["encoding"].lower())
    if encoding is None:
        raise damaged(path, f"encoding: {fields['encoding'][:30]!r}", "raw, gzip, bzip2, text or hex")
    endian = fields.get("endian", "little" if size == 1 or encoding == "text" else "missing").lower()
    if endian not in ("little", "big"):
        raise damaged(path, f"endian: {endian[:20]}", "little or big")
    dtype = np.dtype(("<" if endian == "little" else ">") + kind)
    stored = Stored(file=path, offset=header.tell(), shape=shape, dtype=dtype)
    name = fields.get("data file", "LOCAL")
    if name.upper() != "LOCAL":
        stored = Stored(file=detached(path, name), offset=0, shape=shape, dtype=dtype)
    elif path.suffix.lower() == ".nhdr":
        raise damaged(path, "no field 'data file'", "the name of the file with the voxels")
    return _skipped(path, fields, stored, encoding), encoding


def _skipped(path: Path, fields: Fields, stored: Stored, encoding: str) -> Stored:
    """Return the voxels behind the lines and bytes that a header skips."""
    skips = {key: fields[key] for key in ("line skip", "byte skip") if fields.get(key, "0") != "0"}
    if not skips:
        return stored
    if encoding != "raw":
        key, value = next(iter(skips.items()))
        raise ImageError(
            f"{path}: bytes before compressed voxels are not supported", received=f"{key}: {value}", fix=FIX
        )
    with stored.file.open("rb") as file:
        file.seek(stored.offset)
        for _ in range(min(sizes(path, "line skip", skips.get("line skip", "0"))[0], 1 << 16)):
            file.readline(1 << 20)
        offset = file.tell()
    if skips.get("byte skip") == "-1":
        offset = max(offset, stored.file.stat().st_size - stored.bytes)
    else:
        offset += sizes(path, "byte skip", skips.get("byte skip", "0"))[0]
    return Stored(file=stored.file, offset=offset, shape=stored.shape, dtype=stored.dtype)


def _affine(path: Path, fields: Fields, shape: tuple[int, ...], notes: list[str]) -> NDArray[np.float64]:
    """Return the affine to RAS+ mm."""
    space = fields.get("space", "").lower().removesuffix("-time")
    axes = _SPACES.get(space, LPS_TO_RAS)
    if not space:
        notes.append(_UNSAID)
    elif space not in _SPACES:
        notes.append(f"the space {space[:40]!r} has no anatomical axes: the orientation is a guess")
    if "space directions" not in fields:
        spacing = _spacings(path, fields, len(shape), notes)
        if space in _SPACES:
            notes.append("the NRRD header has no space directions: the orientation is a guess")
        return affine_of(np.diag(spacing), _origin(path, fields, notes), axes)
    vectors = _vectors(path, fields, len(shape))
    linear = np.array([vector[:3] for vector in vectors[:3]], dtype=np.float64).T
    factors = np.ones(3)
    units = re.findall(r'"([^"]*)"', fields.get("space units", ""))
    if "space units" in fields and len(units) < 3:
        raise damaged(path, f"space units: {fields['space units'][:40]}", "a unit in quotes per axis")
    said: list[str] = []
    factors = np.array([in_mm(path, "space units", unit or "mm", said) for unit in units[:3]] or factors)
    notes += dict.fromkeys(said)
    origin = np.array(_origin(path, fields, notes)) * factors
    return affine_of(linear * factors[:, None], origin.tolist(), axes)


def _vectors(path: Path, fields: Fields, axes: int) -> list[list[float]]:
    """Return the step along each voxel axis; the first three axes are spatial and need one."""
    text = fields["space directions"]
    words = re.findall(r"\([^()]*\)|\S+", text)
    if len(words) != axes or not all(word.startswith("(") for word in words[:3]):
        raise damaged(path, f"space directions: {text[:60]!r}", f"{axes} vectors, such as (1,0,0)")
    return [_vector(path, fields, "space directions", word) for word in words[:3]]


def _vector(path: Path, fields: Fields, key: str, word: str) -> list[float]:
    """Return the numbers of a vector; more than the space has axes may be decimal commas."""
    values = numbers(path, key, word.strip().strip("()").replace(",", " "), None)
    with_time = fields.get("space", "").lower().endswith("-time")
    most = sizes(path, "space dimension", fields.get("space dimension", "4" if with_time else "3"))[0]
    if not 3 <= len(values) <= min(most, 4) or not (
        word.strip().startswith("(") and word.strip().endswith(")")
    ):
        raise damaged(path, f"{key}: {word[:40]!r}", "a vector of three numbers, such as (1,0,0)")
    return values


def _origin(path: Path, fields: Fields, notes: list[str]) -> list[float]:
    """Return the position of the first voxel in the units of the file."""
    if "space origin" in fields:
        return _vector(path, fields, "space origin", fields["space origin"])[:3]
    notes.append("the NRRD header has no space origin: the position of the image is a guess")
    return [0.0, 0.0, 0.0]


def _spacings(path: Path, fields: Fields, axes: int, notes: list[str]) -> list[float]:
    """Return the voxel sizes in mm of a header without directions."""
    if "spacings" not in fields:
        notes.append("the NRRD header has no voxel size: 1 mm is a guess")
        return [1.0, 1.0, 1.0]
    words = fields["spacings"].split()
    spacing = numbers(path, "spacings", " ".join(words[:3]), 3)
    if len(words) != axes:
        raise damaged(path, f"spacings: {fields['spacings'][:40]}", f"{axes} numbers")
    positive(path, "spacings", spacing)
    units = re.findall(r'"([^"]*)"', fields.get("units", ""))[:3]
    said: list[str] = []
    factors = [in_mm(path, "units", unit or "mm", said) for unit in units] or [1.0, 1.0, 1.0]
    notes += dict.fromkeys(said)
    if len(factors) != 3:
        raise damaged(path, f"units: {fields['units'][:40]}", "a unit in quotes per axis")
    return [value * factor for value, factor in zip(spacing, factors, strict=True)]
