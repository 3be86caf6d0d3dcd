"""Implement the CUDA kernels in NumPy, sharing no code with `kernels.cu`.

Tests compare both, and the fake CUDA driver runs these functions where there is no C++ compiler.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Kernel = Callable[[int, int, int], None]
"""A kernel on the host: number of blocks, threads per block, address of the array of argument pointers."""


def array_at(address: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Return host memory at an address as an array that shares it."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(address), dtype=dtype).reshape(shape)


class _Arguments:
    def __init__(self, pointers: int) -> None:
        self._pointers, self._next = pointers, 0

    def _take(self, kind: Any, count: int = 1) -> Any:
        where = ctypes.c_uint64.from_address(self._pointers + 8 * self._next).value
        self._next += 1
        return array_at(where, (count,), kind)

    def addresses(self, count: int) -> list[int]:
        return [int(self._take(np.uint64)[0]) for _ in range(count)]

    def shape(self) -> tuple[int, ...]:
        return tuple(int(n) for n in self._take(np.int32, 3))

    def number(self) -> int:
        return int(self._take(np.int32)[0])


def _place(start: Any, box: Any, buffer: Any) -> Any:
    return np.ix_(*((s + np.arange(n)) % length for s, n, length in zip(start, box, buffer, strict=True)))


def _scatter(_blocks: int, _threads: int, pointers: int) -> None:
    a = _Arguments(pointers)
    rows, image = a.addresses(2)
    buffer, start, box = a.shape(), a.shape(), a.shape()
    array_at(image, buffer, np.float32)[_place(start, box, buffer)] = array_at(rows, box, np.float32)


def _value_range(blocks: int, _threads: int, pointers: int) -> None:
    a = _Arguments(pointers)
    image, starts, least, most = a.addresses(4)
    buffer, box = a.shape(), a.shape()
    for i, start in enumerate(array_at(starts, (blocks, 3), np.int32)):
        values = array_at(image, buffer, np.uint32)[_place(start, box, buffer)]
        low, high = array_at(least, (blocks,), np.uint32), array_at(most, (blocks,), np.uint32)
        low[i], high[i] = min(low[i], values.min()), max(high[i], values.max())


def _crop(_blocks: int, _threads: int, pointers: int) -> None:
    a = _Arguments(pointers)
    image, window = a.addresses(2)
    buffer, start, box = a.shape(), a.shape(), a.shape()
    array_at(window, box, np.float32)[...] = array_at(image, buffer, np.float32)[_place(start, box, buffer)]


def _accumulate(_blocks: int, _threads: int, pointers: int) -> None:
    a = _Arguments(pointers)
    logits, weights, channels, total, norm, bad = a.addresses(6)
    buffer, start, box, count = a.shape(), a.shape(), a.shape(), a.number()
    used = array_at(channels, (count,), np.int32)
    answers = array_at(logits, (int(used.max()) + 1, *box), np.float32)
    weight, place = array_at(weights, box, np.float32), _place(start, box, buffer)
    for channel, sums in zip(used, array_at(total, (count, *buffer), np.float32), strict=True):
        if not np.isfinite(answers[channel]).all():
            array_at(bad, (1,), np.int32)[0] = 1
        sums[place] += answers[channel] * weight
    array_at(norm, buffer, np.float32)[place] += weight


def _finished_logits(total: int, norm: int, where: tuple[Any, Any, Any], count: int) -> np.ndarray:
    buffer, start, box = where
    place, sums = _place(start, box, buffer), array_at(total, (count, *buffer), np.float32)
    weight = array_at(norm, buffer, np.float32)
    part, covered = np.stack([channel[place] for channel in sums]), weight[place] > 0
    logits = np.divide(part, weight[place], out=np.zeros_like(part), where=covered)
    for channel in sums:
        channel[place] = 0
    weight[place] = 0
    return logits


def _finish_labels(dtype: Any, _blocks: int, _threads: int, pointers: int) -> None:
    a = _Arguments(pointers)
    total, norm, values, labels = a.addresses(4)
    buffer, start, box, count = a.shape(), a.shape(), a.shape(), a.number()
    logits = _finished_logits(total, norm, (buffer, start, box), count)
    table = array_at(values, (len(logits),), np.int32)
    best = logits.argmax(axis=0)
    array_at(labels, box, dtype)[...] = np.where(logits.max(axis=0) > 0, table[best], 0)


def _finish_logits(_blocks: int, _threads: int, pointers: int) -> None:
    a = _Arguments(pointers)
    total, norm, out = a.addresses(3)
    buffer, start, box, room, target, count = *(a.shape() for _ in range(5)), a.number()
    logits = _finished_logits(total, norm, (buffer, start, box), count)
    for channel, ring in zip(logits, array_at(out, (count, *room), np.float32), strict=True):
        ring[_place(target, box, room)] = channel


def _best(channels: Iterator[np.ndarray], values: int, count: int) -> np.ndarray:
    """Label of the largest positive logit, the first of equals."""
    logits = np.stack([np.zeros_like(first := next(channels)), first, *channels])
    return np.append(0, array_at(values, (count,), np.int32))[logits.argmax(axis=0)]


def _resample_separable(_blocks: int, _threads: int, pointers: int) -> None:
    a = _Arguments(pointers)
    logits, low, high, share, values, labels = a.addresses(6)
    ring, start, box, file, order = (a.shape() for _ in range(5))
    count, wide, first = a.number(), a.number(), np.cumsum([0, *file])
    rows = [slice(f + s, f + s + n) for f, s, n in zip(first, start, box, strict=False)]
    below, above = (
        np.array(np.broadcast_arrays(*np.ix_(*(array_at(t, (sum(file),), np.int64)[r] for r in rows))))
        for t in (low, high)
    )
    shares = np.ix_(*(array_at(share, (sum(file),), np.float32)[r] for r in rows))

    def logit(flat: np.ndarray, axes: tuple[int, ...], offset: Any) -> np.ndarray:
        if not axes:
            return flat[offset]
        *rest, last = axes
        before, after = (logit(flat, tuple(rest), offset + side[last]) for side in (below, above))
        return (after - before) * shares[last] + before

    flat = array_at(logits, (count, int(np.prod(ring))), np.float32)
    array_at(labels, box, np.uint16 if wide else np.uint8)[...] = _best(
        (logit(f, order, 0) for f in flat), values, count
    )


def _resample_sheared(_blocks: int, _threads: int, pointers: int) -> None:
    a = _Arguments(pointers)
    logits, unit, matrix, values, labels = a.addresses(5)
    ring, start, box, file, grid, pad = (a.shape() for _ in range(6))
    axis, first, rows, count, wide = (a.number() for _ in range(5))
    places = np.split(array_at(unit, (sum(file),), np.float64), np.cumsum(file)[:2])
    x, y, z = np.ix_(*(p[s : s + n] for p, s, n in zip(places, start, box, strict=True)))
    at = [
        np.clip(((z * m[2] + y * m[1] + x * m[0] + m[3] + 1.0) * n - 1.0) / 2.0, 0, n - 1)
        for m, n in zip(array_at(matrix, (3, 4), np.float64), grid, strict=True)
    ]
    low = [np.floor(c).astype(int) for c in at]
    share = [(c - i).astype(np.float32) for c, i in zip(at, low, strict=True)]
    high = [np.minimum(i + 1, n - 1) for i, n in zip(low, grid, strict=True)]
    mine = (high[axis] + pad[axis] >= first) & (high[axis] + pad[axis] < first + rows)

    def logit(values: np.ndarray) -> np.ndarray:
        total = np.zeros(box, np.float32)
        for corner in np.ndindex(2, 2, 2):
            part = np.ones(box, np.float32)
            for s, b in zip(share, corner, strict=True):
                part = part * (s if b else 1 - s)
            corners = zip(low, high, corner, pad, ring, strict=True)
            where = [((h if b else i) + p) % n for i, h, b, p, n in corners]
            total += part * values[tuple(where)]
        return np.where(mine, total, 0)

    flat = array_at(logits, (count, *ring), np.float32)
    array_at(labels, box, np.uint16 if wide else np.uint8)[...] = _best(
        (logit(f) for f in flat), values, count
    )


IN_NUMPY: dict[str, Kernel] = {
    "scatter": _scatter,
    "value_range": _value_range,
    "crop": _crop,
    "accumulate": _accumulate,
    "finish_labels8": functools.partial(_finish_labels, np.uint8),
    "finish_labels16": functools.partial(_finish_labels, np.uint16),
    "finish_logits": _finish_logits,
    "resample_separable": _resample_separable,
    "resample_sheared": _resample_sheared,
}

LAYOUT = {"scatter": (2, 3, 0), "value_range": (4, 2, 0), "crop": (2, 3, 0), "accumulate": (6, 3, 1)}
"""Pointers, shapes and numbers that each kernel takes, in this order."""
LAYOUT |= {"finish_labels8": (4, 3, 1), "finish_labels16": (4, 3, 1), "finish_logits": (3, 5, 1)}
LAYOUT |= {"resample_separable": (6, 5, 2), "resample_sheared": (5, 6, 5)}
