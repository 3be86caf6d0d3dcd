"""Check that an ONNX graph reads weights only from files that the manifest lists, whose hashes were verified.

An ONNX file may store tensors in other files, which it names by path ("external data"). Engines read these
files. Newer engines reject paths outside the folder, but no engine knows the manifest. The protocol buffer is
parsed here, since the runtime does not depend on the `onnx` package: a message is a sequence of numbered
fields, and only messages that can contain a tensor are parsed (field numbers as in `onnx.proto`).
"""

from __future__ import annotations

import mmap
import posixpath
from collections.abc import Collection, Iterator
from pathlib import Path

from gcis_runtime.errors import BundleError

_HOLDS: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {13: "entry"},
}
_KEY, _VALUE = 1, 2
_LOCATION = b"location"
_MAX_DEPTH = 100
"""Recursion limit of protocol buffers; engines reject deeper nesting."""
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

Buffer = mmap.mmap | bytes


def check_references(folder: Path, graph: str, *, listed: Collection[str]) -> None:
    """Check that a graph has no weights in files that were not verified.

    Args:
        folder: Folder of the bundle.
        graph: Path of the ONNX file relative to `folder`.
        listed: Paths of the verified files relative to `folder`.

    Raises:
        BundleError: The graph names another file, or is not an ONNX file.
    """
    path = folder / graph
    with path.open("rb") as file:
        try:
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                # Every reference contains this word, and searching it is faster than parsing all nodes.
                names = list(_locations(data, "model", 0, len(data))) if data.find(_LOCATION) >= 0 else []
        except ValueError as error:  # also raised for an empty file, which cannot be mapped
            raise BundleError(
                f"{path} is not an ONNX file",
                received=str(error),
                expected="an ONNX model",
                fix="Export the bundle again.",
            ) from error
    for name in names:
        if posixpath.normpath(posixpath.join(posixpath.dirname(graph), name)) not in listed:
            raise BundleError(
                f"{path} takes weights from a file that the manifest does not list",
                received=repr(name[:200]),
                expected="weights in the graph itself",
                fix="Do not use this bundle.",
            )


def _locations(data: Buffer, kind: str, start: int, stop: int, depth: int = 0) -> Iterator[str]:
    """Yield the path of every external file that a message names.

    Raises:
        ValueError: The bytes are not a valid message.
    """
    if depth > _MAX_DEPTH:
        raise ValueError(f"messages nested deeper than {_MAX_DEPTH}")
    entry: dict[int, bytes] = {}
    for number, first, last in _fields(data, start, stop):
        if kind == "entry":
            entry[number] = data[first:last]
        elif number in _HOLDS[kind]:
            yield from _locations(data, _HOLDS[kind][number], first, last, depth + 1)
    if entry.get(_KEY) == _LOCATION:
        yield entry.get(_VALUE, b"").decode("utf-8", errors="replace")


def _fields(data: Buffer, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, start and end of every length-delimited field of a message.

    Raises:
        ValueError: The bytes are not a valid message.
    """
    while start < stop:
        tag, start = _varint(data, start, stop)
        wire = tag & 7
        if wire == _BYTES:
            size, start = _varint(data, start, stop)
            if size > stop - start:
                raise ValueError(f"a field of {size} bytes with {stop - start} bytes left")
            yield tag >> 3, start, start + size
            start += size
        elif wire == _VARINT:
            _, start = _varint(data, start, stop)
        elif wire in (_FIXED64, _FIXED32):
            start += 8 if wire == _FIXED64 else 4
        else:
            raise ValueError(f"a field of unknown wire type {wire}")
    if start > stop:
        raise ValueError("a field exceeds its message")


def _varint(data: Buffer, start: int, stop: int) -> tuple[int, int]:
    """Decode a variable-length integer (seven bits per byte, lowest first); return it and its end."""
    value = 0
    for position in range(start, min(stop, start + 10)):
        value |= (data[position] & 0x7F) << (7 * (position - start))
        if data[position] < 0x80:
            return value, position + 1
    raise ValueError("an integer of more than ten bytes")
