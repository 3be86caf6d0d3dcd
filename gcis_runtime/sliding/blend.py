"""Blending window by window, holding only what later windows will still touch.

Windows run in slab order (`schedule`): by their start along the slab axis `a`, then along `u`, then `v`.
Rows of voxels that no later window of a slab touches leave a strip as wide as a window: planes that no later
slab touches as `Tile`s, the others to wait for it. 410 x 410 x 425 voxels, fifty structures, windows of 64
and overlap 0.5 hold 0.5 GB in the strip and 1.9 GB waiting, in memory or in a file, not 14 GB.

Every voxel receives the same additions in the same order as in a whole-volume blend: both are equal bit for
bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.sliding.accumulator import Buffers, Tile
from gcis_runtime.sliding.carry_over import FileWaiting, MemoryWaiting
from gcis_runtime.sliding.schedule import Schedule
from gcis_runtime.spec import Shape3
from gcis_runtime.system.worker_threads import Workers

Predictor = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""From a window (1, 1, X, Y, Z) to logits (1, C, X, Y, Z), foreground minus background logits."""

WindowSource = Callable[[Shape3], NDArray[np.float32]]
"""From a window's start on the padded grid to its content (1, 1, X, Y, Z), contiguous; in plan order."""

_REMEMBERED_BYTES = 1 << 27
"""Answers kept for constant windows, the first one always: nearly all are 0 (air) or 1."""


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
        if not known or (len(known) + 1) * answer.nbytes <= _REMEMBERED_BYTES:
            known[value] = np.array(answer)
        return answer

    return run


def blend_tiles(
    order: Schedule,
    windows: WindowSource,
    weights: NDArray[np.float32],
    predict: Predictor,
    *,
    channels: tuple[int, ...],
    workers: Workers,
    on_disk: bool = False,
) -> Iterator[Tile]:
    """Run every window of a plan and give finished tiles of blended logits.

    Args:
        order: How the plan's windows run.
        windows: Content of each window.
        weights: (X, Y, Z) of the plan's windows, positive.
        predict: The network.
        channels: Graph channels to blend; the tiles' channels, in this order.
        workers: Add up; sums do not depend on how many there are.
        on_disk: Let planes wait in a temporary file.

    Yields:
        Tiles that cover the padded grid once: by their start along the plan's slab axis, then along the first
        of the other two axes, complete along the second (`WindowPlan.across`).

    Raises:
        OutputError: The temporary file cannot be made, or its disk is full.
    """
    axes, shape = (order.plan.axis, *order.plan.across), (len(channels) + 1, *order.waiting_shape)
    waiting = (FileWaiting if on_disk else MemoryWaiting)(shape, axes, workers)
    try:
        buffers = Buffers(order, weights, channels, waiting=waiting, workers=workers)
        yield from _tiles(buffers, order, windows, predict)
    finally:
        waiting.close()


def _tiles(buffers: Buffers, order: Schedule, windows: WindowSource, predict: Predictor) -> Iterator[Tile]:
    """See `blend_tiles`."""
    plan, edge = order.plan, 0  # every plane before `edge` is finished
    width = plan.patch_size[plan.across[0]]
    for slab in order.slabs:
        yield from buffers.empty(edge, slab.first)
        buffers.begin(slab)
        yield from buffers.finish(0, slab.rows[0].first)
        for row in slab.rows:
            buffers.load(row.first, row.first + width)
            for window in row.windows:
                answer = predict(windows(window))[0]
                buffers.add(window, answer)
            yield from buffers.finish(row.first, row.end)
        edge = buffers.end()
    yield from buffers.empty(edge, plan.padded[plan.axis])


def logits_to_labels(
    logits: NDArray[np.float32], *, values: tuple[int, ...], dtype: type[np.unsignedinteger] = np.uint16
) -> NDArray[np.unsignedinteger]:
    """Give each voxel the structure with the largest positive logit, else 0; the first wins a tie.

    Args:
        logits: (C, ...) foreground minus background logits.
        values: Label value of each channel.
        dtype: Type of the labels.
    """
    labels = np.zeros(logits.shape[1:], dtype=dtype)
    best = np.zeros(logits.shape[1:], dtype=np.float32)
    for logit, value in zip(logits, values, strict=True):
        if logit.max() <= 0:  # most structures are nowhere near
            continue
        wins = logit > best
        labels[wins] = value
        np.maximum(best, logit, out=best)
    return labels
