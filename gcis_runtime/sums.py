"""Sums of weighted margins that windows add to, and the tiles that leave when no window will add any more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.spec import Shape3
from gcis_runtime.windows import WindowPlan, advance

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


_Piece = tuple[
    NDArray[np.float32], NDArray[np.float32], list[tuple[NDArray[np.float32], NDArray[np.float32]]]
]
"""Weights, where they add up, and of each channel where its margins add up and the margins."""


class Buffers:
    """Sums of margins and weights that are not finished.

    The strip holds the planes that a slab of windows finishes, for a row of windows; all other sums wait.
    Arrays lie in memory in the grid's axis order, as the network's answers do, and are used through views
    ordered (channel, a, u, v): additions then run along memory whatever the slab axis is.
    """

    def __init__(
        self,
        plan: WindowPlan,
        weights: NDArray[np.float32],
        channels: tuple[int, ...],
        pool: ThreadPoolExecutor,
        threads: int,
    ) -> None:
        self._plan, self._weights, self._channels = plan, weights, channels
        self._pool = pool
        a, (u, v) = plan.axis, plan.across
        self._ready, most, waiting = _depths(plan)
        self._wait, self._wait_norm = self._allocate({a: waiting, u: plan.padded[u], v: plan.padded[v]})
        self._strip, self._norm = self._allocate({a: most, u: plan.roi[u], v: plan.padded[v]})
        room = max(_CACHED_VOXELS, plan.roi[1] * plan.roi[2])
        self._scratch = [np.empty(room, dtype=np.float32) for _ in range(threads)]
        self._waiting = 0  # planes at the front of the waiting buffers that hold sums
        self._first, self._finished = 0, 0  # first plane of the slab, planes that it finishes
        self._u, self._held = 0, 0  # first row of the strip, rows of it that are loaded

    def _allocate(self, size: dict[int, int]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return views (C, a, u, v) and (a, u, v) of zeros."""
        shape = (size[0], size[1], size[2])
        order = (self._plan.axis, *self._plan.across)
        sums = np.zeros((len(self._channels), *shape), dtype=np.float32).transpose(
            0, *(axis + 1 for axis in order)
        )
        return sums, np.zeros(shape, dtype=np.float32).transpose(order)

    def begin(self, first: int) -> None:
        """Start the slab of windows at plane `first`."""
        self._first, self._finished = first, self._ready[first]
        self._u, self._held = 0, 0

    def end(self) -> int:
        """End the slab; returns the plane that the next tile starts at."""
        self._waiting = self._plan.roi[self._plan.axis] - self._finished
        return self._first + self._finished

    def load(self, start: int) -> None:
        """Move the strip to row `start`; fill its new rows with what waits and free that for later planes."""
        width = self._strip.shape[2]
        held = max(0, self._held - (start - self._u))
        ready = self._finished
        taken = min(ready, self._waiting)
        for strip, wait in ((self._strip, self._wait), (self._norm[None], self._wait_norm[None])):
            advance(strip, 2, start - self._u, held)
            rows = wait[:, :, start + held : start + width]
            strip[:, :taken, held:] = rows[:, :taken]
            strip[:, taken:ready, held:] = 0
            self._free(rows)
        self._u, self._held = start, width

    def _free(self, rows: NDArray[np.float32]) -> None:
        """Drop the planes that this slab finishes from waiting rows (C, a, u, v), and clear what follows."""
        left = max(0, self._waiting - self._finished)
        advance(rows, 1, self._finished, left)
        rows[:, left:] = 0

    def add(self, start: Shape3, margins: NDArray[np.float32]) -> None:
        """Add a window's weighted margins (C, X, Y, Z) to the strip, and unfinished planes to what waits."""
        a, (u, v) = self._plan.axis, self._plan.across
        depth, ready = self._plan.roi[a], self._finished
        rows = slice(start[u], start[u] + self._plan.roi[u])
        part = slice(start[v], start[v] + self._plan.roi[v])
        strip, norm = self._strip[:, :ready, :, part], self._norm[:ready, :, part]
        pieces = self._pieces(strip, norm, margins, slice(0, ready))
        if ready < depth:
            wait, norm = (
                self._wait[:, : depth - ready, rows, part],
                self._wait_norm[: depth - ready, rows, part],
            )
            pieces += self._pieces(wait, norm, margins, slice(ready, depth))
        workers = len(self._scratch)
        shares = [pieces[worker::workers] for worker in range(workers)]
        if workers == 1:
            _accumulate(shares[0], self._scratch[0])
        else:
            list(self._pool.map(_accumulate, shares, self._scratch))

    def _pieces(
        self,
        sums: NDArray[np.float32],
        norm: NDArray[np.float32],
        margins: NDArray[np.float32],
        planes: slice,
    ) -> list[_Piece]:
        """Cut the addition of `planes` along the slab axis of a window into pieces that a cache holds.

        Args:
            sums: Where margins go, (C, a, u, v).
            norm: Where weights go, (a, u, v).
            margins: The window's, (C, X, Y, Z).
            planes: Which of them.
        """
        a = self._plan.axis
        index = tuple(planes if axis == a else slice(None) for axis in range(3))
        weights = self._weights[index]
        back = np.argsort((a, *self._plan.across))  # the grid's axis order, as memory's
        norm, totals = norm.transpose(back), [total.transpose(back) for total in sums]
        answers = [margins[channel][index] for channel in self._channels]
        step = max(1, _CACHED_VOXELS // (weights.shape[1] * weights.shape[2]))
        cuts = [slice(first, first + step) for first in range(0, len(weights), step)]
        return [
            (weights[cut], norm[cut], [(t[cut], m[cut]) for t, m in zip(totals, answers, strict=True)])
            for cut in cuts
        ]

    def finish(self, start: int, stop: int, *, from_strip: bool) -> Iterator[Tile]:
        """Give the planes that this slab finishes of rows `start` to `stop`.

        Args:
            start: First row.
            stop: End of the rows.
            from_strip: Whether windows of this slab lie there; else only earlier ones may.
        """
        ready = self._finished
        if from_strip:
            width = stop - start
            yield self._tile(self._first, start, self._strip[:, :ready, :width], self._norm[:ready, :width])
            return
        rows, weights = self._wait[:, :, start:stop], self._wait_norm[:, start:stop]
        held = min(ready, self._waiting)
        sums = np.zeros((len(rows), ready, *rows.shape[2:]), dtype=np.float32)
        norm = np.zeros(sums.shape[1:], dtype=np.float32)
        sums[:, :held], norm[:held] = rows[:, :held], weights[:held]
        yield self._tile(self._first, start, sums, norm)
        self._free(rows)
        self._free(weights[None])

    def flush(self) -> Iterator[Tile]:
        """Give the planes that wait after the last slab."""
        u = self._plan.across[0]
        for row in range(0, self._plan.padded[u] if self._waiting else 0, self._plan.roi[u]):
            rows = slice(
                row, row + self._plan.roi[u]
            )  # as wide as other tiles: what restores them is as large
            sums, norm = self._wait[:, : self._waiting, rows], self._wait_norm[: self._waiting, rows]
            yield self._tile(self._first + self._finished, row, sums, norm)

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


def _depths(plan: WindowPlan) -> tuple[dict[int, int], int, int]:
    """Return the planes that each slab of windows finishes by its start, the most of them, and the most that
    wait.

    The last slab leaves to `Buffers.flush` what the others' strip does not hold.
    """
    depth = plan.roi[plan.axis]
    starts = sorted({s[plan.axis] for s in plan.starts})
    ready = {s: min(t - s, depth) for s, t in pairwise(starts)}
    most = max(ready.values(), default=depth)
    ready |= dict.fromkeys(starts[-1:], most)
    return ready, most, depth - min(ready.values(), default=depth)


def buffer_bytes(plan: WindowPlan, *, channels: int) -> int:
    """Return the bytes of sums that `Buffers` allocates for a plan, without its scratch."""
    (u, v), (_, most, waiting) = plan.across, _depths(plan)
    voxels = plan.padded[v] * (waiting * plan.padded[u] + most * plan.roi[u])
    return 4 * (channels + 1) * voxels


def tile_shape(plan: WindowPlan) -> tuple[int, int, int]:
    """Return a shape (X, Y, Z) that holds every tile of a plan where windows lie."""
    (u, v), (_, most, waiting) = plan.across, _depths(plan)
    size = {plan.axis: max(most, waiting), u: plan.roi[u], v: plan.padded[v]}
    return size[0], size[1], size[2]


def _accumulate(pieces: Sequence[_Piece], scratch: NDArray[np.float32]) -> None:
    """Add weighted margins and weights, piece by piece; `scratch` holds one piece."""
    for weights, norm, pairs in pieces:
        product = scratch[: weights.size].reshape(weights.shape)
        for total, margin in pairs:
            np.multiply(margin, weights, out=product)
            np.add(total, product, out=total)
        np.add(norm, weights, out=norm)
