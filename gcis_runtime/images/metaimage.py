"""Parse MetaImage headers (`.mha`, `.mhd`)."""

from __future__ import annotations

from pathlib import Path

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

_MOST_AXES, _LONGEST_TEXT = 9, 254
_SHORT_TEXTS = (
    "ObjectType", "ObjectSubType", "TransformType", "Name", "Comment", "AcquisitionDate", "DistanceUnits",
    "AnatomicalOrientation", "Modality", "ElementType",
)  # fmt: skip
_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4",
    "MET_UINT": "u4", "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8",
    "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip
"""Element types of real numbers; ITK also reads others as numbers, such as strings."""
_TRUE = ("t", "1")


def read_metaimage(path: Path) -> ItkHeader:
    """Read and check a header; spacing, origin and direction that are missing become notes.

    Raises:
        ImageError: A field is missing or invalid, the voxels are in several files or in none, or are not real
            numbers.
    """
    with path.open("rb") as file:
        refuse_known(path, file.read(HEAD))
        file.seek(0)
        fields: dict[str, str] = {}
        for line in lines_of(path, file):
            key, _, value = line.partition("=")
            _check_text(path, key.strip(), value.strip())
            one_place(path, fields, key.strip(), value.strip())
        end = file.tell()
    missing = [key for key in ("NDims", "DimSize", "ElementType", "ElementDataFile") if key not in fields]
    if missing:
        raise ImageError(
            f"{path} cannot be read",
            received=f"no field {missing[0]}",
            expected="a MetaImage header",
            fix=FIX,
        )
    axes = fields["NDims"]
    if not (axes.isascii() and axes.isdigit() and 1 <= int(axes[:3]) <= _MOST_AXES):
        raise damaged(path, f"NDims = {axes[:20]!r}", "3")
    notes: list[str] = []
    stored, encoding = _voxels(path, fields, end)
    if len(stored.shape) != int(axes):
        raise damaged(path, f"NDims = {axes} and DimSize = {fields['DimSize'][:40]}", "one size per axis")
    affine = _affine(path, fields, len(stored.shape), notes) if len(stored.shape) >= 3 else np.eye(4)
    return ItkHeader(stored=stored, encoding=encoding, affine=affine, notes=tuple(notes))


def _check_text(path: Path, key: str, value: str) -> None:
    """Raise an error for texts that overflow the buffers of ITK, with which others may open the same file."""
    if len(key) > _LONGEST_TEXT or (key in _SHORT_TEXTS and len(value) > _LONGEST_TEXT):
        raise damaged(path, f"{len(key) + len(value)} characters in {key[:20]!r}", f"at most {_LONGEST_TEXT}")


def _voxels(path: Path, fields: Fields, end: int) -> tuple[Stored, str]:
    """Return location, form and encoding of the voxels; `end` is the length of the header in bytes."""
    kind = fields["ElementType"]
    channels = fields.get("ElementNumberOfChannels", "1")
    if kind.removesuffix("_ARRAY") not in _TYPES or channels != "1":
        raise ImageError(
            f"{path}: the voxels are not real numbers",
            received=kind if channels == "1" else f"{channels[:20]} channels of {kind}",
            expected="MET_SHORT, …",
        )
    compressed = fields.get("CompressedData", "")[:1].lower() in _TRUE
    skip = fields.get("HeaderSize", "0")
    if compressed and skip != "0":
        raise ImageError(
            f"{path}: bytes before compressed voxels are not supported",
            received=f"HeaderSize: {skip}",
            fix=FIX,
        )
    msb = fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "False"))
    dtype = np.dtype((">" if msb[:1].lower() in _TRUE else "<") + _TYPES[kind.removesuffix("_ARRAY")])
    name = fields["ElementDataFile"]
    local = name.lower() == "local"
    file = path if local else detached(path, name)
    text = fields.get("BinaryData", "True")[:1].lower() not in _TRUE
    shape = sizes(path, "DimSize", fields["DimSize"])
    offset = end if local else 0
    if skip == "-1":
        size = int(np.prod(shape, dtype=np.float64)) * dtype.itemsize
        offset = file.stat().st_size - size
        if offset < (end if local else 0):
            raise ImageError(
                f"{path}: the file is truncated",
                received=f"{file.stat().st_size} bytes", expected=f"{size} bytes of voxels", fix=FIX,
            )  # fmt: skip
    elif skip != "0":
        offset += sizes(path, "HeaderSize", skip)[0]
    length = fields.get("CompressedDataSize") if compressed else None
    stored = Stored(
        file=file, offset=offset, shape=shape, dtype=dtype,
        compressed_bytes=None if length is None else sizes(path, "CompressedDataSize", length)[0],
    )  # fmt: skip
    return stored, "zlib" if compressed else "text" if text else "raw"


def _affine(path: Path, fields: Fields, axes: int, notes: list[str]) -> NDArray[np.float64]:
    """Return the affine to RAS+ mm; MetaImage positions are LPS."""
    spacing = _first(path, fields, ("ElementSpacing", "ElementSize"), axes)
    if spacing is None:
        notes.append("the header has no ElementSpacing: a voxel size of 1 mm is a guess")
        spacing = [1.0] * axes
    positive(path, "ElementSpacing", spacing)
    if "ElementSpacing" in fields and "ElementSize" in fields:
        edge = numbers(path, "ElementSize", fields["ElementSize"], axes)
        if not np.allclose(edge, spacing, rtol=1e-4):
            notes.append("ElementSize and ElementSpacing differ: ElementSpacing is used")
    origin = _first(path, fields, ("Offset", "Position", "Origin"), axes)
    if origin is None:
        notes.append("the header has no Offset: the position of the image is a guess")
        origin = [0.0] * axes
    matrix = _first(path, fields, ("TransformMatrix", "Rotation", "Orientation"), axes * axes)
    if matrix is None:
        notes.append("the header has no TransformMatrix: the orientation is a guess")
        matrix = np.eye(axes).ravel().tolist()
    factor = 1.0
    if fields.get("DistanceUnits", "?") not in ("?", ""):
        factor = in_mm(path, "DistanceUnits", fields["DistanceUnits"], notes)
    for key, neutral in (("ElementToIntensityFunctionSlope", 1.0), ("ElementToIntensityFunctionOffset", 0.0)):
        if key in fields and numbers(path, key, fields[key], 1)[0] != neutral:
            raise damaged(path, f"{key} = {fields[key][:20]}", "voxels in HU; apply the scale first")
    # Row k of the matrix is the direction of voxel axis k.
    linear = np.array(matrix, dtype=np.float64).reshape(axes, axes)[:3, :3].T * spacing[:3]
    return affine_of(linear * factor, [value * factor for value in origin[:3]], LPS_TO_RAS)


def _first(path: Path, fields: Fields, keys: tuple[str, ...], count: int) -> list[float] | None:
    """Return the numbers of the first of several fields with the same meaning; None without any."""
    key = next((key for key in keys if key in fields), None)
    return None if key is None else numbers(path, key, fields[key], count)
