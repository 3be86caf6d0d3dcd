"""Blending window by window, holding only what later windows will still touch.

Windows run in slab order (`WindowPlan`): by their start along the slab axis `a`, then along `u`, then `v`.
Planes that the next slab of windows touches wait in a buffer as deep as slabs overlap; the others are
finished row of windows by row, in a strip as wide as a window, and leave as `Tile`s. 512 x 512 x 425 voxels,
fifty structures, windows of 64 and overlap 0.5 hold 1.4 GB in the buffer and 0.2 GB in the strip, not 22 GB.

Every voxel receives the same additions in the same order as in a whole-volume blend: both are equal bit for
bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.spec import Shape3
from gcis_runtime.sums import Buffers, Tile
from gcis_runtime.windows import WindowPlan

Predictor = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""From a window (1, 1, X, Y, Z) to margins (1, C, X, Y, Z), foreground minus background logits."""

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
    plan: WindowPlan,
    windows: WindowSource,
    weights: NDArray[np.float32],
    predict: Predictor,
    *,
    channels: tuple[int, ...],
    threads: int = 1,
) -> Iterator[Tile]:
    """Run every window of a plan and give finished tiles of blended margins.

    Args:
        plan: Window positions, in slab order; some of `plan_windows`' may be left out.
        windows: Content of each window.
        weights: (X, Y, Z) of `plan.roi`, positive.
        predict: The network.
        channels: Graph channels to blend; the tiles' channels, in this order.
        threads: CPU threads that add up; sums do not depend on them.

    Yields:
        Tiles that cover the padded grid once: by their start along `plan.axis`, then along the first of the
        other two axes, complete along the second (`plan.across`).
    """
    with ThreadPoolExecutor(threads) as pool:
        yield from _tiles(Buffers(plan, weights, channels, pool, threads), plan, windows, predict)


def _tiles(buffers: Buffers, plan: WindowPlan, windows: WindowSource, predict: Predictor) -> Iterator[Tile]:
    """See `blend_tiles`."""
    edge = 0  # every plane before it is finished
    slabs = [(first, list(group)) for first, group in groupby(plan.starts, key=lambda s: s[plan.axis])]
    for first, group in slabs:
        yield from buffers.empty(edge, first)
        buffers.begin(first)
        for start, stop, row in _rows(group, plan):
            if row:
                buffers.load(start)
                for window in row:
                    answer = predict(windows(window))[0]
                    buffers.add(window, answer)
            yield from buffers.finish(start, stop, from_strip=bool(row))
        edge = buffers.end()
    if slabs:
        yield from buffers.flush()
        edge = slabs[-1][0] + plan.roi[plan.axis]
    yield from buffers.empty(edge, plan.padded[plan.axis])


def _rows(group: list[Shape3], plan: WindowPlan) -> Iterator[tuple[int, int, list[Shape3]]]:
    """Cut a slab along `u` into parts that are finished one after another.

    Yields:
        First index, end, and the windows to add before that part is finished; none where only an earlier
        slab's windows lie.
    """
    u = plan.across[0]
    rows = [(start, list(row)) for start, row in groupby(group, key=lambda s: s[u])]
    width = plan.roi[u]
    yield from _without_windows(0, rows[0][0], width)
    for (start, row), (after, _) in pairwise([*rows, (plan.padded[u], [])]):
        stop = min(after, start + width)
        yield start, stop, row
        yield from _without_windows(stop, after, width)


def _without_windows(first: int, end: int, width: int) -> Iterator[tuple[int, int, list[Shape3]]]:
    """Cut rows without windows into parts no wider than a window, as the others are."""
    for start in range(first, end, width):
        yield start, min(start + width, end), []


def margins_to_labels(
    margins: NDArray[np.float32], *, values: tuple[int, ...], dtype: type[np.unsignedinteger] = np.uint16
) -> NDArray[np.unsignedinteger]:
    """Give each voxel the structure with the largest positive margin, else 0; the first wins a tie.

    Args:
        margins: (C, ...) foreground minus background logits.
        values: Label value of each channel.
        dtype: Type of the labels.
    """
    labels = np.zeros(margins.shape[1:], dtype=dtype)
    best = np.zeros(margins.shape[1:], dtype=np.float32)
    for margin, value in zip(margins, values, strict=True):
        if margin.max() <= 0:  # most structures are nowhere near
            continue
        wins = margin > best
        labels[wins] = value
        np.maximum(best, margin, out=best)
    return labels
