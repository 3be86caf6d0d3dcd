"""Read the image size from the header of a JPEG, JPEG-LS or JPEG 2000 code stream.

Decoders allocate what the code stream states, so that a few bytes could ask for gigabytes.
"""

from __future__ import annotations

_JPEG, _JPEG_2000 = b"\xff\xd8", b"\xff\x4f\xff\x51"
_SIZES = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
"""Markers of segments with the image size: start of frame, JPEG and JPEG-LS."""


def codestream_size(data: bytes) -> tuple[int, int] | None:
    """Return the width and the height in a code stream; None if it has no such header (RLE).

    Raises:
        ValueError: The header is damaged.
    """
    if data[:4] == _JPEG_2000:
        if len(data) < 24:
            raise ValueError("the code stream ends early")
        x, y, left, top = (int.from_bytes(data[i : i + 4], "big") for i in (8, 12, 16, 20))
        return x - left, y - top
    if data[:2] != _JPEG:
        return None
    at = 2
    while at + 9 <= len(data):
        if data[at] != 0xFF:
            raise ValueError("a marker is damaged")
        marker = data[at + 1]
        if marker == 0xFF:
            at += 1
            continue
        if marker in _SIZES:
            return int.from_bytes(data[at + 7 : at + 9], "big"), int.from_bytes(data[at + 5 : at + 7], "big")
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    raise ValueError("the code stream has no size")
