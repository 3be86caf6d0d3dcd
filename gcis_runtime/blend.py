"""Blending window by window into labels, holding one slab of logits at a time.

Along the slab axis, windows start at ever larger indices. Voxels before the next window's start will not
be touched again: they are divided by their true weight sum, turned into labels and freed. The buffer is one
window deep: 512 x 512 x 425 voxels and seven structures hold 512 x 512 x 96 x 8 float32 (0.8 GB), not 3.6 GB.

Every voxel receives the same additions in the same order as in a whole-volume blend: both are equal bit for
bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.windows import WindowPlan

Predictor = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""From a window (1, 1, X, Y, Z) to margins (1, C, X, Y, Z), foreground minus background logits."""

_REMEMBERED = 8
"""Constant windows kept: nearly all are 0 (air) or 1; each costs C windows of float32."""


@dataclass(kw_only=True)
class WindowCount:
    """How many windows there were, and how many of them needed no run of the network."""

    total: int = 0
    reused: int = 0


def reuse_constant(predict: Predictor, count: WindowCount) -> Predictor:
    """Wrap a predictor so that a window of one value is computed once and then reused (exact)."""
    known: dict[float, NDArray[np.float32]] = {}

    def run(window: NDArray[np.float32]) -> NDArray[np.float32]:
        count.total += 1
        value = float(window.flat[0])
        # The eight corners tell nearly every varied window apart without reading it all.
        corners = window[..., :: window.shape[-3] - 1, :: window.shape[-2] - 1, :: window.shape[-1] - 1]
        if not (corners == value).all() or not (window == value).all():
            return predict(window)
        if value in known:
            count.reused += 1
            return known[value]
        answer = predict(window)
        if len(known) < _REMEMBERED:
            known[value] = np.array(answer)
        return answer

    return run


def blend_slabs(
    array: NDArray[np.float32],
    plan: WindowPlan,
    weights: NDArray[np.float32],
    predict: Predictor,
    *,
    done: Callable[[int], None] | None = None,
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """Run every window and give finished slabs of blended margins.

    Args:
        array: (X, Y, Z) of `plan.padded`.
        plan: Window positions.
        weights: (X, Y, Z) of `plan.roi`, positive.
        predict: The network.
        done: Called with the number of windows finished so far.

    Yields:
        First index along the slab axis and the slab's margins (C, slab, other axes in file order); the
        slab lies in a buffer that the next step overwrites.
    """
    axis, depth = plan.axis, plan.roi[plan.axis]
    others = [a for a in range(3) if a != axis]
    source, weight = np.moveaxis(array, axis, 0), np.ascontiguousarray(np.moveaxis(weights, axis, 0))
    face = tuple(plan.padded[a] for a in others)
    total: NDArray[np.float32] | None = None
    norm = np.zeros((depth, *face), dtype=np.float32)
    groups = [(first, list(group)) for first, group in groupby(plan.starts, key=lambda start: start[axis])]
    ends = [first for first, _ in groups[1:]] + [plan.padded[axis]]
    finished = 0
    for (first, group), end in zip(groups, ends, strict=True):
        for start in group:
            u, v = (slice(start[a], start[a] + plan.roi[a]) for a in others)
            window = np.moveaxis(source[first : first + depth, u, v], 0, axis)
            margins = np.moveaxis(predict(np.ascontiguousarray(window)[None, None])[0], axis + 1, 1)
            if total is None:
                total = np.zeros((margins.shape[0], depth, *face), dtype=np.float32)
            for channel, margin in zip(total, margins, strict=True):  # a channel at a time: small temporaries
                channel[:, u, v] += margin * weight
            norm[:, u, v] += weight
            finished += 1
            if done is not None:
                done(finished)
        if total is None:
            continue
        ready = end - first
        total[:, :ready] /= norm[:ready]
        yield first, total[:, :ready]
        _advance(total, 1, ready)
        _advance(norm, 0, ready)


def blend_labels(
    array: NDArray[np.float32],
    plan: WindowPlan,
    weights: NDArray[np.float32],
    predict: Predictor,
    *,
    channels: tuple[int, ...],
    values: tuple[int, ...],
    done: Callable[[int], None] | None = None,
) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Segment an array window by window.

    Args:
        array: (X, Y, Z) of `plan.padded`.
        plan: Window positions.
        weights: (X, Y, Z) of `plan.roi`.
        predict: The network.
        channels: Graph channels to use.
        values: Label value of each of them.
        done: Called with the number of windows finished so far.

    Returns:
        Label values, (X, Y, Z) of `plan.shape` (padding removed): uint8, or uint16 for values above 255.
    """
    labels = np.zeros(plan.shape, dtype=np.uint8 if max(values) <= 255 else np.uint16)
    target = np.moveaxis(labels, plan.axis, 0)
    others = [a for a in range(3) if a != plan.axis]
    inner = tuple(slice(plan.before[a], plan.before[a] + plan.shape[a]) for a in others)
    pad, length = plan.before[plan.axis], plan.shape[plan.axis]
    for first, slab in blend_slabs(array, plan, weights, predict, done=done):
        begin, end = max(first, pad), min(first + slab.shape[1], pad + length)
        if begin < end:
            margins = slab[:, begin - first : end - first, *inner]
            target[begin - pad : end - pad] = margins_to_labels(margins, channels=channels, values=values)
    return labels


def margins_to_labels(
    margins: NDArray[np.float32], *, channels: tuple[int, ...], values: tuple[int, ...]
) -> NDArray[np.uint16]:
    """Give each voxel the structure with the largest positive margin, else 0; the first wins a tie.

    Args:
        margins: (C, ...) foreground minus background logits.
        channels: Channels that take part.
        values: Label value of each of them.
    """
    labels = np.zeros(margins.shape[1:], dtype=np.uint16)
    best = np.zeros(margins.shape[1:], dtype=np.float32)
    for channel, value in zip(channels, values, strict=True):
        wins = margins[channel] > best
        labels[wins] = value
        np.maximum(best, margins[channel], out=best)
    return labels


def _advance(buffer: NDArray[np.float32], axis: int, steps: int) -> None:
    """Move a buffer's contents `steps` towards its front along `axis` and clear the rest."""
    view = np.moveaxis(buffer, axis, 0)
    keep = view.shape[0] - steps
    for row in range(keep):  # row by row: source and target overlap, and numpy would copy it all
        view[row] = view[row + steps]
    view[keep:] = 0
