"""Check an ONNX graph before an engine reads it: format, operators, sizes, and places of the weights.

Engines trust a graph: OpenVINO also reads other formats, weights at memory addresses and loops without end.
Only what an exported network can contain is accepted, and every message is read by a table of its fields. A
field that is unknown, repeated or of another wire type is refused, because parsers may disagree about it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gcis_runtime.bundles.protobuf import BYTES, FIXED32, VARINT, WireError, fields, varint
from gcis_runtime.errors import BundleError

_MAX_NODES = 50_000
"""Exported networks have about 500 operators."""
_MAX_BYTES = 2**31 - 1
"""Limit of protocol buffers."""
_MAX_ELEMENTS = 2**31
_DOMAINS = ("", "ai.onnx")
_CONTROL_FLOW = ("If", "Loop", "Scan", "SequenceMap")
_ITEM_BITS = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 16: 16,
    17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4,
}  # fmt: skip
"""Bits per element by data type of a tensor; text and complex numbers are refused."""
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*(/[A-Za-z0-9_][A-Za-z0-9_.+-]*)*")
"""Paths of weights: no `..`, link syntax, drive, wildcard or address."""

_ONCE, _MANY = False, True
_TABLES: dict[str, dict[int, tuple[int, bool, str]]] = {
    "model": {
        1: (VARINT, _ONCE, ""), 2: (BYTES, _ONCE, ""), 3: (BYTES, _ONCE, ""), 4: (BYTES, _ONCE, ""),
        5: (VARINT, _ONCE, ""), 6: (BYTES, _ONCE, ""), 7: (BYTES, _ONCE, "graph"),
        8: (BYTES, _MANY, "opset"), 14: (BYTES, _MANY, ""),
    },
    "opset": {1: (BYTES, _ONCE, ""), 2: (VARINT, _ONCE, "")},
    "graph": {
        1: (BYTES, _MANY, "node"), 2: (BYTES, _ONCE, ""), 5: (BYTES, _MANY, "tensor"), 10: (BYTES, _ONCE, ""),
        11: (BYTES, _MANY, ""), 12: (BYTES, _MANY, ""), 13: (BYTES, _MANY, ""), 14: (BYTES, _MANY, ""),
        16: (BYTES, _MANY, ""),
    },
    "node": {
        1: (BYTES, _MANY, ""), 2: (BYTES, _MANY, ""), 3: (BYTES, _ONCE, ""), 4: (BYTES, _ONCE, ""),
        5: (BYTES, _MANY, "attribute"), 6: (BYTES, _ONCE, ""), 7: (BYTES, _ONCE, ""), 9: (BYTES, _MANY, ""),
    },
    "attribute": {
        1: (BYTES, _ONCE, ""), 2: (FIXED32, _ONCE, ""), 3: (VARINT, _ONCE, ""), 4: (BYTES, _ONCE, ""),
        5: (BYTES, _ONCE, "tensor"), 7: (-1, _MANY, ""), 8: (-1, _MANY, ""), 9: (BYTES, _MANY, ""),
        10: (BYTES, _MANY, "tensor"), 13: (BYTES, _ONCE, ""), 20: (VARINT, _ONCE, ""),
    },
    "tensor": {
        1: (-1, _MANY, ""), 2: (VARINT, _ONCE, ""), 4: (BYTES, _ONCE, ""), 5: (BYTES, _ONCE, ""),
        7: (BYTES, _ONCE, ""), 8: (BYTES, _ONCE, ""), 9: (BYTES, _ONCE, ""), 10: (BYTES, _ONCE, ""),
        11: (BYTES, _ONCE, ""), 12: (BYTES, _ONCE, ""), 13: (BYTES, _MANY, "entry"), 14: (VARINT, _ONCE, ""),
        16: (BYTES, _MANY, ""),
    },
    "entry": {1: (BYTES, _ONCE, ""), 2: (BYTES, _ONCE, "")},
}  # fmt: skip
"""Accepted fields of each message by number, as in `onnx.proto`: wire type (-1: packed or not), whether it
may be repeated, and the table of its own fields."""
_FORBIDDEN = {
    ("model", 20): "training steps", ("model", 25): "functions", ("graph", 15): "sparse weights",
    ("attribute", 6): "a graph in an operator (control flow)",
    ("attribute", 11): "graphs in an operator (control flow)",
    ("attribute", 22): "sparse weights", ("attribute", 23): "sparse weights", ("tensor", 6): "text",
}  # fmt: skip
_DATA = (4, 5, 7, 9, 10, 11)
"""Fields with the elements of a tensor; 9 are raw bytes."""


@dataclass(frozen=True, kw_only=True)
class ExternalTensor:
    """An initializer whose elements are in another file.

    Attributes:
        start: Start of the tensor's message in the graph.
        location: Path of the file relative to the bundle.
        offset: Start of the elements in that file in bytes.
        size: Size of the elements in bytes.
    """

    start: int
    location: str
    offset: int
    size: int


@dataclass(kw_only=True, slots=True)
class _Message:
    """Values of the fields of one message, by number; parts are the nested messages."""

    start: int
    values: dict[int, list[tuple[int, int, int]]] = field(default_factory=dict)
    parts: dict[int, list[_Message]] = field(default_factory=dict)


def check_onnx(data: bytes, *, source: str, listed: Mapping[str, int]) -> tuple[ExternalTensor, ...]:
    """Check a graph, and return its tensors whose elements are in other files.

    Args:
        data: Content of the ONNX file.
        source: Name of the file for error messages.
        listed: Size in bytes of the bundle's verified files by path.

    Raises:
        BundleError: The bytes are no ONNX model, or the model contains what no exported network contains.
    """
    try:
        if not 0 < len(data) <= _MAX_BYTES:
            raise WireError(f"{len(data)} bytes")
        if data[:1] != b"\x08" or data[4:8] == b"TFL3":  # OpenVINO also reads IR, TensorFlow Lite and others
            raise WireError(f"a file that starts with {data[:8]!r}")
        return _check_model(_read(data, "model", 0, len(data)), data, listed)
    except WireError as error:
        raise BundleError(
            f"{source} is not an ONNX file",
            received=str(error),
            expected="an ONNX model",
            fix="Export the bundle again.",
        ) from error
    except _Refused as error:
        raise BundleError(
            f"{source} {error.what}",
            received=error.received,
            expected=error.expected,
            fix="Do not use this bundle.",
        ) from error


class _Refused(ValueError):  # noqa: N818 (becomes a BundleError)
    """A valid message with content that no exported network has."""

    def __init__(self, what: str, *, received: str, expected: str) -> None:
        super().__init__(what)
        self.what, self.received, self.expected = what, received[:200], expected


def _read(data: bytes, kind: str, start: int, stop: int) -> _Message:
    """Read a message and its nested messages; their depth is that of the tables."""
    found, table = _Message(start=start), _TABLES[kind]
    values = found.values
    for number, wire, first, end in fields(data, start, stop):
        if number not in table:
            raise _unexpected(kind, number)
        expected, repeated, part = table[number]
        if expected not in (-1, wire):
            raise WireError(f"field {number} of a {kind} has wire type {wire}")
        if number not in values:
            values[number] = [(wire, first, end)]
        elif not repeated:
            raise WireError(f"field {number} of a {kind} is repeated")
        else:
            values[number].append((wire, first, end))
            if kind == "graph" and number == 1 and len(values[number]) > _MAX_NODES:
                raise WireError(f"more than {_MAX_NODES} operators")
        if part:
            found.parts.setdefault(number, []).append(_read(data, part, first, end))
    return found


def _unexpected(kind: str, number: int) -> ValueError:
    """Return the error for a field that is not in the tables."""
    if (kind, number) not in _FORBIDDEN:
        return WireError(f"unknown field {number} of a {kind}")
    return _Refused(
        "contains what no exported network has",
        received=_FORBIDDEN[kind, number],
        expected="operators on dense tensors",
    )


def _check_model(model: _Message, data: bytes, listed: Mapping[str, int]) -> tuple[ExternalTensor, ...]:
    """Check operators and tensors of a model."""
    graphs = model.parts.get(7, [])
    if not graphs or not model.parts.get(8):
        raise WireError("no graph, or no operator set")
    for opset in model.parts[8]:
        _check_domain(_text(opset, 1, data))
    (graph,) = graphs
    for node in graph.parts.get(1, []):
        _check_domain(_text(node, 7, data))
        name = _text(node, 4, data)
        if name in _CONTROL_FLOW or not re.fullmatch(r"\w+", name, re.ASCII):
            raise _Refused(
                "contains control flow" if name in _CONTROL_FLOW else "contains an unknown operator",
                received=repr(name),
                expected="operators that run once per window",
            )
        for attribute in node.parts.get(5, []):
            for tensor in (*attribute.parts.get(5, []), *attribute.parts.get(10, [])):
                if _check_tensor(tensor, data, listed) is not None:
                    raise WireError("an attribute with its elements in another file")
    found = [_check_tensor(tensor, data, listed) for tensor in graph.parts.get(5, [])]
    return tuple(tensor for tensor in found if tensor is not None)


def _check_domain(domain: str) -> None:
    if domain not in _DOMAINS:
        raise _Refused(
            "uses operators of another domain",
            received=repr(domain),
            expected="operators of the ONNX standard",
        )


def _check_tensor(tensor: _Message, data: bytes, listed: Mapping[str, int]) -> ExternalTensor | None:
    """Compare the shape of a tensor with the size of its elements; return it if they are in another file."""
    bits = _ITEM_BITS.get(_number(tensor, 2, data))
    if bits is None:
        raise WireError(f"a tensor of data type {_number(tensor, 2, data)}")
    dims = _dims(tensor, data)
    count = math.prod(dims)
    if any(n >= _MAX_ELEMENTS for n in dims) or count >= _MAX_ELEMENTS:
        raise WireError(f"a tensor of shape {dims[:8]}")
    size = (count * bits + 7) // 8
    present = [number for number in _DATA if number in tensor.values]
    if 13 in tensor.values or _number(tensor, 14, data):
        if present:
            raise WireError("a tensor with elements in two places")
        return _external(tensor, data, listed, size)
    if len(present) > 1 or (count and not present):
        raise WireError(f"a tensor of {count} elements with {len(present)} lists of elements")
    for number in present:
        _, first, end = tensor.values[number][0]
        wrong = end - first != size if number == 9 else not (count + 1) // 2 <= end - first <= 10 * count
        if wrong:
            raise WireError(f"a tensor of {size} bytes with {end - first} bytes of elements")
    return None


def _external(tensor: _Message, data: bytes, listed: Mapping[str, int], size: int) -> ExternalTensor:
    """Return where the elements of a tensor are, which must be inside a listed file."""
    entries = {_text(entry, 1, data): _text(entry, 2, data) for entry in tensor.parts.get(13, [])}
    location = entries.get("location", "")
    if len(entries) != len(tensor.parts.get(13, [])) or entries.keys() - {"location", "offset", "length"}:
        raise WireError(f"the entries {sorted(entries)} of weights in another file")
    if not _PLAIN.fullmatch(location) or "_MEM_ADDR_" in location or location not in listed:
        raise _Refused(
            "takes weights from a file that the manifest does not list",
            received=repr(location),
            expected="weights in the graph itself",
        )
    numbers = {name: entries.get(name, default) for name, default in (("offset", "0"), ("length", str(size)))}
    if not all(re.fullmatch(r"[0-9]{1,12}", text) for text in numbers.values()):
        raise WireError(f"the place {numbers} of weights")
    offset, length = int(numbers["offset"]), int(numbers["length"])
    if length != size or offset + length > listed[location]:
        raise WireError(f"weights of {size} bytes at {offset} to {offset + length} of {location}")
    return ExternalTensor(start=tensor.start, location=location, offset=offset, size=size)


def _dims(tensor: _Message, data: bytes) -> list[int]:
    """Return the shape of a tensor, stored as single or packed integers."""
    dims = []
    for wire, first, end in tensor.values.get(1, []):
        if wire not in (VARINT, BYTES):
            raise WireError(f"a shape of wire type {wire}")
        position = first
        while position < end:
            value, position = varint(data, position, end)
            dims.append(value)
    if len(dims) > 32:
        raise WireError(f"a tensor of {len(dims)} dimensions")
    return dims


def _text(message: _Message, number: int, data: bytes) -> str:
    """Return a text field; empty if it is missing."""
    for _, first, end in message.values.get(number, []):
        return data[first : min(end, first + 4096)].decode("utf-8", errors="replace")
    return ""


def _number(message: _Message, number: int, data: Any) -> int:
    """Return an integer field; 0 if it is missing."""
    for _, first, end in message.values.get(number, []):
        return varint(data, first, end)[0]
    return 0
