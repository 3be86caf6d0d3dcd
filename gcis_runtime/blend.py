"""Blending window by window, holding only what later windows will still touch.

Windows run in slab order (`WindowPlan`): by their start along the slab axis `a`, then along `u`, then `v`. A
row of windows (one `a`, one `u`) adds into a strip as deep and wide as a window. What no later window touches
leaves as a finished `Tile`; what the next slab of windows touches waits in a buffer as deep as consecutive
slabs overlap. 512 x 512 x 425 voxels, fifty structures, windows of 64 and overlap 0.25 hold 0.7 GB for the
buffer and 0.4 GB for the strip, not 22 GB.

Every voxel receives the same additions in the same order as in a whole-volume blend: both are equal bit for
bit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby, pairwise

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.spec import Shape3
from gcis_runtime.windows import WindowPlan, advance

Predictor = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""From a window (1, 1, X, Y, Z) to margins (1, C, X, Y, Z), foreground minus background logits."""

WindowSource = Callable[[Shape3], NDArray[np.float32]]
"""From a window's start on the padded grid to its content (1, 1, X, Y, Z), contiguous; in plan order."""

_REMEMBERED_BYTES = 1 << 27
"""Answers kept for constant windows, the first one always: nearly all are 0 (air) or 1."""

_CACHED_VOXELS = 1 << 17
"""Voxels of a window that are added at a time: half a MiB stays in a processor's cache, and a whole window of
96 (3.4 MiB) does not, which made it up to seven times slower."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Tile:
    """Finished margins of a box of the padded grid.

    Attributes:
        start: First index of the box along X, Y, Z.
        margins: (C, X, Y, Z) of the box, valid until the next tile. Zero where no window of the plan lies.
    """

    start: Shape3
    margins: NDArray[np.float32]


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
) -> Iterator[Tile]:
    """Run every window of a plan and give finished tiles of blended margins.

    Args:
        plan: Window positions, in slab order; some of `plan_windows`' may be left out.
        windows: Content of each window.
        weights: (X, Y, Z) of `plan.roi`, positive.
        predict: The network.
        channels: Graph channels to blend; the tiles' channels, in this order.

    Yields:
        Tiles that cover the padded grid once: by their start along `plan.axis`, then along the first of the
        other two axes, complete along the second.
    """
    buffers = _Buffers(plan, weights, len(channels))
    edge = 0  # every plane before it is finished
    slabs = [(first, list(group)) for first, group in groupby(plan.starts, key=lambda s: s[plan.axis])]
    for (first, group), (end, _) in pairwise([*slabs, (plan.padded[plan.axis], [])]):
        yield from buffers.empty(edge, first)
        buffers.begin()
        for start, stop, row in _rows(group, plan):
            if row:
                buffers.load(start)
                for window in row:
                    answer = predict(windows(window))[0]
                    buffers.add(window, answer, channels)
            yield from buffers.finish(first, end, start, stop, from_strip=bool(row))
        edge = min(end, first + plan.roi[plan.axis])
        buffers.planes = max(0, first + plan.roi[plan.axis] - end)
    yield from buffers.empty(edge, plan.padded[plan.axis])


def _rows(group: list[Shape3], plan: WindowPlan) -> Iterator[tuple[int, int, list[Shape3]]]:
    """Cut a slab along `u` into parts that are finished one after another.

    Yields:
        First index, end, and the windows to add before that part is finished; none where only an earlier
        slab's windows lie.
    """
    u = plan.across[0]
    rows = [(start, list(row)) for start, row in groupby(group, key=lambda s: s[u])]
    if rows[0][0] > 0:
        yield 0, rows[0][0], []
    for (start, row), (after, _) in pairwise([*rows, (plan.padded[u], [])]):
        stop = min(after, start + plan.roi[u])
        yield start, stop, row
        if stop < after:
            yield stop, after, []


class _Buffers:
    """Sums of margins and weights that are not finished.

    Arrays lie in memory in the grid's axis order, as the network's answers do, and are used through views
    ordered (channel, a, u, v): additions then run along memory whatever the slab axis is.
    """

    def __init__(self, plan: WindowPlan, weights: NDArray[np.float32], channels: int) -> None:
        self._plan, self._weights = plan, weights
        self.planes = 0
        """Planes at the front of the waiting buffers that hold sums."""
        a, (u, v) = plan.axis, plan.across
        starts = sorted({s[a] for s in plan.starts})
        waiting = max((s + plan.roi[a] - t for s, t in pairwise(starts)), default=0)
        size = {a: max(0, waiting), u: plan.padded[u], v: plan.padded[v]}
        self._wait, self._wait_norm = self._allocate(size, channels)
        size |= {a: plan.roi[a], u: plan.roi[u]}
        self._strip, self._norm = self._allocate(size, channels)
        planes = max(1, min(plan.roi[0], _CACHED_VOXELS // (plan.roi[1] * plan.roi[2])))
        self._scratch = np.empty((planes, *plan.roi[1:]), dtype=np.float32)
        self._u = 0
        self._held = 0
        """Rows of the strip, from its front, that hold sums beyond what the waiting buffers say."""

    def _allocate(
        self, size: dict[int, int], channels: int
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return views (C, a, u, v) and (a, u, v) of zeros."""
        shape = (size[0], size[1], size[2])
        order = (self._plan.axis, *self._plan.across)
        sums = np.zeros((channels, *shape), dtype=np.float32).transpose(0, *(axis + 1 for axis in order))
        return sums, np.zeros(shape, dtype=np.float32).transpose(order)

    def begin(self) -> None:
        """Forget the strip: another slab's windows follow."""
        self._u, self._held = 0, 0

    def load(self, start: int) -> None:
        """Move the strip to `start` along `u` and fill what is new with what waits from the last slab."""
        width = self._strip.shape[2]
        step = start - self._u
        held = max(0, self._held - step)
        for strip, wait in ((self._strip, self._wait), (self._norm[None], self._wait_norm[None])):
            advance(strip, 2, step, held)
            strip[:, self.planes :, held:] = 0
            strip[:, : self.planes, held:] = wait[:, : self.planes, start + held : start + width]
        self._u, self._held = start, width

    def add(self, start: Shape3, margins: NDArray[np.float32], channels: tuple[int, ...]) -> None:
        """Add a window's weighted margins (C, X, Y, Z) to the strip."""
        v = self._plan.across[1]
        part = slice(start[v], start[v] + self._plan.roi[v])
        order = np.argsort((self._plan.axis, *self._plan.across))  # back to the grid's axis order
        norm = self._norm[:, :, part].transpose(order)
        totals = [total[:, :, part].transpose(order) for total in self._strip]
        for first in range(0, self._plan.roi[0], len(self._scratch)):
            planes = slice(first, first + len(self._scratch))
            weights = self._weights[planes]
            scratch = self._scratch[: len(weights)]
            for total, channel in zip(totals, channels, strict=True):
                np.multiply(margins[channel, planes], weights, out=scratch)
                total[planes] += scratch
            norm[planes] += weights

    def finish(self, first: int, end: int, start: int, stop: int, *, from_strip: bool) -> Iterator[Tile]:
        """Give the finished planes of rows `start` to `stop`, and let the others wait.

        Args:
            first: First plane of the slab's windows.
            end: First plane of the next slab's.
            start: First row.
            stop: End of the rows.
            from_strip: Whether windows of this slab lie there.
        """
        rows = slice(start, stop)
        wait, wait_norm = self._wait[:, :, rows], self._wait_norm[:, rows]
        depth = self._plan.roi[self._plan.axis]
        ready = min(end - first, depth)
        if from_strip:
            sums, norm = self._strip[:, :, : stop - start], self._norm[:, : stop - start]
            wait[:, : depth - ready], wait_norm[: depth - ready] = sums[:, ready:], norm[ready:]
            yield self._tile(first, start, sums[:, :ready], norm[:ready])
            return
        held = min(ready, self.planes)
        sums = np.zeros((len(wait), ready, *wait.shape[2:]), dtype=np.float32)
        norm = np.zeros(sums.shape[1:], dtype=np.float32)
        sums[:, :held], norm[:held] = wait[:, :held], wait_norm[:held]
        yield self._tile(first, start, sums, norm)
        left = self.planes - held
        for buffer in (wait, wait_norm[None]):
            advance(buffer, 1, ready, left)
            buffer[:, left : depth - ready] = 0

    def empty(self, first: int, stop: int) -> Iterator[Tile]:
        """Give planes where no window lies, in tiles no deeper than a window."""
        axis, depth = self._plan.axis, self._plan.roi[self._plan.axis]
        for begin in range(first, stop, depth):
            shape = list(self._plan.padded)
            shape[axis] = min(depth, stop - begin)
            start = tuple(begin if a == axis else 0 for a in range(3))
            zeros = np.broadcast_to(np.float32(0), (len(self._strip), *shape))
            yield Tile(start=(start[0], start[1], start[2]), margins=zeros)

    def _tile(self, first: int, row: int, sums: NDArray[np.float32], norm: NDArray[np.float32]) -> Tile:
        """Divide sums (C, a, u, v) by their weights in place; zero where there are none."""
        a, (u, v) = self._plan.axis, self._plan.across
        covered = norm > 0
        if covered.all():
            sums /= norm
        else:
            np.divide(sums, norm, out=sums, where=covered)
        start = {a: first, u: row, v: 0}
        back = np.argsort((a, u, v))
        return Tile(
            start=(start[0], start[1], start[2]), margins=sums.transpose(0, *(int(i) + 1 for i in back))
        )


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
