"""Blend windows one by one, holding only the sums to which later windows still add.

Windows run in the order of a `Schedule`. A ring buffer as wide as a window holds the lines of a slab. Lines
that no later window of the slab touches are emitted: their planes that no later slab touches become a `Tile`,
and the others are carried over to the next slab. With 410 x 410 x 425 voxels, fifty structures, windows of 64
voxels and overlap 0.5, the ring buffer takes 0.5 GB and the carry-over 1.9 GB, in memory or in a file; sums
of the whole volume would take 14 GB.

Every voxel receives the same additions in the same order as when the whole volume is held, so that both
results are equal bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.sliding.accumulator import Accumulator, Tile
from gcis_runtime.sliding.carry_over import FileCarryOver, MemoryCarryOver
from gcis_runtime.sliding.schedule import Schedule
from gcis_runtime.spec import Shape3
from gcis_runtime.system.worker_threads import Workers

Predictor = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""From a window (1, 1, X, Y, Z) to logits (1, C, X, Y, Z)."""

WindowSource = Callable[[Shape3], NDArray[np.float32]]
"""From the start of a window on the padded grid to its content (1, 1, X, Y, Z); called in plan order."""

KEPT_OUTPUT_BYTES = 1 << 27
"""Limit of network outputs that are kept for constant windows. Nearly all of these are 0 (air) or 1."""


@dataclass(kw_only=True)
class WindowCount:
    """Number of windows.

    Attributes:
        total: Windows that were processed.
        reused: Windows whose output was reused from an equal constant window.
    """

    total: int = 0
    reused: int = 0


def kept_outputs(output_bytes: int) -> int:
    """Return how many outputs of constant windows are kept for reuse, on the CPU and on a GPU.

    The first output is always kept, others up to `KEPT_OUTPUT_BYTES` in all.

    Args:
        output_bytes: Bytes of the network's output for one window, all channels of the graph.
    """
    return max(1, KEPT_OUTPUT_BYTES // output_bytes)


def reuse_constant(predict: Predictor, count: WindowCount) -> Predictor:
    """Wrap a predictor so that windows of one constant value are computed once and then reused (exact).

    Args:
        predict: The network.
        count: Counts the windows.
    """
    known: dict[float, NDArray[np.float32]] = {}

    def run(window: NDArray[np.float32]) -> NDArray[np.float32]:
        count.total += 1
        value = float(window.flat[0])
        # The eight corners identify nearly every varied window without reading all of it.
        corners = window[..., :: window.shape[-3] - 1, :: window.shape[-2] - 1, :: window.shape[-1] - 1]
        if not (corners == value).all() or not (window == value).all():
            return predict(window)
        if value in known:
            count.reused += 1
            return known[value]
        output = predict(window)
        if len(known) < kept_outputs(output.nbytes):
            known[value] = np.array(output)
        return output

    return run


def blend_tiles(
    schedule: Schedule,
    windows: WindowSource,
    weights: NDArray[np.float32],
    predict: Predictor,
    *,
    channels: tuple[int, ...],
    workers: Workers,
    on_disk: bool = False,
) -> Iterator[Tile]:
    """Run every window of a plan and emit tiles of blended logits.

    Args:
        schedule: The schedule of the windows.
        windows: Content of each window.
        weights: (X, Y, Z) blending weights of a window, positive.
        predict: The network.
        channels: Graph channels to blend, in the order of the channels of the tiles.
        workers: Threads that accumulate. Results do not depend on their number.
        on_disk: Carry planes over in a temporary file instead of memory.

    Yields:
        Tiles that cover the padded grid exactly once, ordered by their start along the slab axis and then
        along `u`, complete along `v` (`WindowPlan.across`).

    Raises:
        OutputError: The temporary file cannot be created, or its disk is full.
    """
    axes, shape = (schedule.plan.axis, *schedule.plan.across), (len(channels) + 1, *schedule.carry_over_shape)
    carry_over = (FileCarryOver if on_disk else MemoryCarryOver)(shape, axes, workers)
    try:
        accumulator = Accumulator(schedule, weights, channels, carry_over=carry_over, workers=workers)
        yield from _tiles(accumulator, schedule, windows, predict)
    finally:
        carry_over.close()


def _tiles(
    accumulator: Accumulator, schedule: Schedule, windows: WindowSource, predict: Predictor
) -> Iterator[Tile]:
    """See `blend_tiles`."""
    plan, edge = schedule.plan, 0  # every plane before `edge` has been emitted
    width = plan.patch_size[plan.across[0]]
    for slab in schedule.slabs:
        yield from accumulator.empty(edge, slab.first)
        accumulator.begin(slab)
        yield from accumulator.finish(0, slab.rows[0].first)
        for row in slab.rows:
            accumulator.load(row.first, row.first + width)
            for window in row.windows:
                output = predict(windows(window))[0]
                accumulator.add(window, output)
            yield from accumulator.finish(row.first, row.end)
        edge = accumulator.end()
    yield from accumulator.empty(edge, plan.padded[plan.axis])


def logits_to_labels(
    logits: NDArray[np.float32], *, values: tuple[int, ...], dtype: type[np.unsignedinteger] = np.uint16
) -> NDArray[np.unsignedinteger]:
    """Return the label of the largest positive logit per voxel, else 0; ties go to the first channel.

    Args:
        logits: (C, ...) logits: foreground minus background.
        values: Label value of each channel.
        dtype: Type of the labels.

    Returns:
        (...) labels.
    """
    labels = np.zeros(logits.shape[1:], dtype=dtype)
    best = np.zeros(logits.shape[1:], dtype=np.float32)
    for logit, value in zip(logits, values, strict=True):
        if logit.max() <= 0:  # most structures lie elsewhere
            continue
        wins = logit > best
        labels[wins] = value
        np.maximum(best, logit, out=best)
    return labels
