"""Sums of weighted logits that windows add to, and the tiles that leave when no window will add any more."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.sliding.carry_over import Waiting
from gcis_runtime.sliding.schedule import Schedule, Slab
from gcis_runtime.spec import Shape3
from gcis_runtime.system.worker_threads import Workers

_CACHED_VOXELS = 1 << 17
"""Voxels of a window that are added at a time: what is added, weighted and read then stays in a processor's
cache. A whole window of 96 (3.4 MiB) does not, which made it up to seven times slower."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Tile:
    """Finished logits of a box of the padded grid.

    Attributes:
        start: First index of the box along X, Y, Z.
        logits: (C, X, Y, Z) of the box, valid until the next tile. Zero where no window of the plan lies.
    """

    start: Shape3
    logits: NDArray[np.float32]


_Piece = tuple[
    NDArray[np.float32], NDArray[np.float32], list[tuple[NDArray[np.float32], NDArray[np.float32]]]
]
"""Weights, where they add up, and of each channel where its logits add up and the logits."""


class Buffers:
    """Sums of logits and weights that are not finished.

    The strip, a ring, holds the rows of a slab that its windows are adding to, as deep as they are. Rows that
    leave it are finished in the planes that no later slab touches; their other planes wait for the next slab.
    Arrays lie in memory in the grid's axis order, as the network's answers do, and are used through views
    ordered (channel, a, u, v), weights last: a window's part of the strip along Z is one run for each X.

    Args:
        order: How the plan's windows run.
        weights: (X, Y, Z) of a window.
        channels: Graph channels that are added.
        waiting: Where planes wait.
        workers: Share channels and pieces.
    """

    def __init__(
        self,
        order: Schedule,
        weights: NDArray[np.float32],
        channels: tuple[int, ...],
        *,
        waiting: Waiting,
        workers: Workers,
    ) -> None:
        plan = self._plan = order.plan
        self._weights, self._channels, self._wait, self._workers = weights, channels, waiting, workers
        self._axes, self._depth, self._wide = (
            (plan.axis, *plan.across),
            plan.patch_size[plan.axis],
            order.wide,
        )
        self._back = np.argsort(self._axes)  # to the grid's axis order, as memory's
        strip = np.zeros((len(channels) + 1, *order.strip_shape), dtype=np.float32)
        self._strip = strip.transpose(0, *(1 + axis for axis in self._axes))
        # Rows that leave have a part of the strip's planes; what restores them wants them in long runs.
        self._room = np.empty(len(channels) * math.prod(order.tile), np.float32)
        room = max(_CACHED_VOXELS, plan.patch_size[1] * plan.patch_size[2])
        self._scratch = [np.empty(room, dtype=np.float32) for _ in range(workers.count)]
        self._waiting = 0  # planes that wait
        self._first, self._ready = 0, 0  # the slab's
        self._loaded = 0  # rows before it have been in the strip, which is a ring of the last ones

    def begin(self, slab: Slab) -> None:
        """Start a slab."""
        self._first, self._ready = slab.first, slab.ready
        self._loaded = 0

    def end(self) -> int:
        """End the slab; returns the plane that the next tile starts at."""
        self._waiting = self._depth - self._ready
        return self._first + self._ready

    def _places(self, start: int, stop: int) -> Iterator[tuple[int, slice]]:
        """Cut rows where the strip's end is reached; gives each part's first row and place in the strip."""
        width = self._strip.shape[2]
        while start < stop:
            place = start % width
            count = min(stop - start, width - place)
            yield start, slice(place, place + count)
            start += count

    def load(self, start: int, stop: int) -> None:
        """Have rows `start` to `stop` in the strip; take what waits of those that are not there."""
        for first, place in self._places(max(start, self._loaded), stop):
            new = self._strip[:, :, place]
            self._workers.each(lambda channel: channel.fill(0), new)  # whole: one run of memory
            if self._waiting:
                self._wait.take(first, new[:, : self._waiting])
        self._loaded = stop

    def add(self, start: Shape3, logits: NDArray[np.float32]) -> None:
        """Add a window's weighted logits (C, X, Y, Z) to the strip."""
        _, u, v = self._axes
        roi, pieces, part = self._plan.patch_size, [], slice(start[v], start[v] + self._plan.patch_size[v])
        for first, place in self._places(start[u], start[u] + roi[u]):
            index = [slice(None)] * 3
            index[u] = slice(first - start[u], first - start[u] + place.stop - place.start)
            rows, answers = self._strip[:, :, place, part], logits[:, *index]
            pieces += self._pieces(rows, answers, self._weights[tuple(index)])
        count = len(self._scratch)
        shares = [pieces[worker::count] for worker in range(count)]
        self._workers.each(_accumulate, shares, self._scratch)

    def _pieces(
        self, sums: NDArray[np.float32], logits: NDArray[np.float32], weights: NDArray[np.float32]
    ) -> list[_Piece]:
        """Cut the addition of rows of a window into pieces that a cache holds.

        Args:
            sums: Where logits and weights go, (C + 1, a, u, v).
            logits: The window's, (C, X, Y, Z).
            weights: Its weights, (X, Y, Z).
        """
        *totals, norm = [total.transpose(self._back) for total in sums]
        answers, (deep, *face) = [logits[channel] for channel in self._channels], weights.shape
        step = max(1, _CACHED_VOXELS // math.prod(face))
        cuts = [slice(first, first + step) for first in range(0, deep, step)]
        return [
            (weights[cut], norm[cut], [(t[cut], m[cut]) for t, m in zip(totals, answers, strict=True)])
            for cut in cuts
        ]

    def finish(self, start: int, stop: int) -> Iterator[Tile]:
        """Give the planes that this slab finishes of rows `start` to `stop`."""
        for row in range(start, stop, self._wide):
            end = min(row + self._wide, stop)
            self.load(row, max(end, self._loaded))  # rows that no window of this slab touches may be missing
            for first, place in self._places(row, end):
                yield self._leave(first, self._strip[:, :, place])

    def _leave(self, start: int, rows: NDArray[np.float32]) -> Tile:
        """Let rows of the strip leave: planes that are finished as a tile, the others to wait.

        Args:
            start: The first row.
            rows: (C + 1, a, u, v).
        """
        if self._depth > self._ready:
            self._wait.keep(start, rows[:, self._ready :])
        return self._tile(self._first, start, rows[:, : self._ready])

    def empty(self, first: int, stop: int) -> Iterator[Tile]:
        """Give planes where no window lies, in tiles no deeper than a window."""
        axis, depth = self._plan.axis, self._plan.patch_size[self._plan.axis]
        for begin in range(first, stop, depth):
            shape = list(self._plan.padded)
            shape[axis] = min(depth, stop - begin)
            start = tuple(begin if a == axis else 0 for a in range(3))
            zeros = np.broadcast_to(np.float32(0), (len(self._channels), *shape))
            yield Tile(start=(start[0], start[1], start[2]), logits=zeros)

    def _tile(self, first: int, row: int, rows: NDArray[np.float32]) -> Tile:
        """Divide sums by their weights; zero where there are none.

        Args:
            first: Their first plane.
            row: Their first row.
            rows: Sums of logits and weights, (C + 1, a, u, v).
        """
        sums, norm = rows[:-1], rows[-1]
        shape = tuple(sums.shape[1 + axis] for axis in self._back)
        tile = self._room[: len(sums) * math.prod(shape)].reshape(len(sums), *shape)
        covered = None if norm.min(initial=1) > 0 else norm > 0

        def divide(total: NDArray[np.float32], logits: NDArray[np.float32]) -> None:
            if covered is None:
                np.divide(total, norm, out=logits)
            else:
                logits[~covered] = 0
                np.divide(total, norm, out=logits, where=covered)

        self._workers.each(divide, sums, tile.transpose(0, *(1 + axis for axis in self._axes)))
        x, y, z = (i for _, i in sorted(zip(self._axes, (first, row, 0), strict=True)))
        return Tile(start=(x, y, z), logits=tile)


def _accumulate(pieces: Sequence[_Piece], scratch: NDArray[np.float32]) -> None:
    """Add weighted logits and weights, piece by piece; `scratch` holds one piece."""
    for weights, norm, pairs in pieces:
        product = scratch[: weights.size].reshape(weights.shape)
        for total, logit in pairs:
            np.multiply(logit, weights, out=product)
            np.add(total, product, out=total)
        np.add(norm, weights, out=norm)
