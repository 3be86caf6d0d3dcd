"""Read and write the wire format of protocol buffers, strictly: what is ambiguous or damaged is an error.

A message is a sequence of numbered fields. The runtime does not depend on the `onnx` or `protobuf` package.
"""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types. Groups (3 and 4) are obsolete and refused."""
_FIXED = {FIXED64: 8, FIXED32: 4}


class WireError(ValueError):
    """The bytes are not a valid message."""


def fields(data: bytes, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield the fields of a message in order.

    Args:
        data: Bytes that contain the message.
        start: First byte of the message.
        stop: End of the message.

    Yields:
        Number of the field, wire type, and start and end of its value in `data`.

    Raises:
        WireError: The bytes are not a valid message.
    """
    while start < stop:
        if (tag := data[start]) < 0x80:  # one byte, as most tags: twice as fast as the general case
            start += 1
        else:
            tag, start = varint(data, start, stop)
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise WireError(f"a field of number {number}")
        if wire in (VARINT, BYTES):
            if start < stop and (value := data[start]) < 0x80:  # one byte, as most lengths
                end = start + 1
            else:
                value, end = varint(data, start, stop)
            if wire == BYTES:
                start = end
                end += value
        elif wire in _FIXED:
            end = start + _FIXED[wire]
        else:
            raise WireError(f"a field of unknown wire type {wire}")
        if end > stop:
            raise WireError("a field exceeds its message")
        yield number, wire, start, end
        start = end


def varint(data: bytes, start: int, stop: int) -> tuple[int, int]:
    """Decode a variable-length integer (seven bits per byte, lowest first); return it and its end.

    Raises:
        WireError: It is longer than ten bytes, exceeds 64 bits, or exceeds its message.
    """
    value = 0
    for position in range(start, min(stop, start + 10)):
        byte = data[position]
        value |= (byte & 0x7F) << (7 * (position - start))
        if byte < 0x80:
            if value >> 64:
                raise WireError("an integer of more than 64 bits")
            return value, position + 1
    raise WireError("an integer without an end")


def encoded(number: int, *parts: bytes | memoryview) -> list[bytes | memoryview]:
    """Return a length-delimited field as a list of buffers; the value is the concatenation of `parts`."""
    return [_varint(number << 3 | BYTES) + _varint(sum(map(len, parts))), *parts]


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
