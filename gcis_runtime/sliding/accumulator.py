"""Accumulate weighted logits of windows, and emit finished planes as tiles of blended logits."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.sliding.carry_over import CarryOver
from gcis_runtime.sliding.schedule import Schedule, Slab
from gcis_runtime.spec import Shape3
from gcis_runtime.system.worker_threads import Workers

_CACHED_VOXELS = 1 << 17
"""Voxels of a window that are added at a time, so that sums, logits and weights stay in the processor cache.
Adding a whole window of 96 x 96 x 96 voxels (3.4 MiB) at once was up to seven times slower."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Tile:
    """Blended logits of a box of the padded grid.

    Attributes:
        start: First index of the box (X, Y, Z).
        logits: (C, X, Y, Z) of the box, valid until the next tile. Zero where the plan has no window.
    """

    start: Shape3
    logits: NDArray[np.float32]


class _Addition(NamedTuple):
    """Part of the addition of a window, small enough for the processor cache.

    Attributes:
        weights: Blending weights of the part.
        norm: Sums of weights to add them to.
        channels: Per channel, the sums of logits and the logits to add to them.
    """

    weights: NDArray[np.float32]
    norm: NDArray[np.float32]
    channels: list[tuple[NDArray[np.float32], NDArray[np.float32]]]


class Accumulator:
    """Sums of weighted logits and of weights that are not finished yet.

    A ring buffer along `u` holds the lines of a slab that its windows add to, as deep as a window. Lines that
    no later row of windows touches are emitted: their planes that no later slab touches become a tile, and
    their other planes are carried over to the next slab.

    Arrays lie in memory in the axis order of the grid, as the output of the network does, and are accessed
    through views ordered (channel, a, u, v) with the sum of weights as the last channel. The part of the ring
    buffer that belongs to a window is then one contiguous run along Z for each X.

    Args:
        schedule: The schedule of the windows.
        weights: (X, Y, Z) blending weights of a window.
        channels: Graph channels to accumulate.
        carry_over: Storage of the planes that are carried over.
        workers: Threads that share channels and parts of windows.
    """

    def __init__(
        self,
        schedule: Schedule,
        weights: NDArray[np.float32],
        channels: tuple[int, ...],
        *,
        carry_over: CarryOver,
        workers: Workers,
    ) -> None:
        plan = self._plan = schedule.plan
        self._weights, self._channels, self._workers = weights, channels, workers
        self._carry_over = carry_over
        self._axes = (plan.axis, *plan.across)
        self._depth, self._tile_lines = plan.patch_size[plan.axis], schedule.tile_lines
        self._to_grid = np.argsort(self._axes)  # from (a, u, v) to (X, Y, Z)
        ring = np.zeros((len(channels) + 1, *schedule.ring_shape), dtype=np.float32)
        self._ring = ring.transpose(0, *(1 + axis for axis in self._axes))
        # Tiles are copied out of the ring buffer: interpolation needs long contiguous runs.
        self._tile = np.empty(len(channels) * math.prod(schedule.tile_shape), np.float32)
        scratch = max(_CACHED_VOXELS, plan.patch_size[1] * plan.patch_size[2])
        self._scratch = [np.empty(scratch, dtype=np.float32) for _ in range(workers.count)]
        self._carried = 0  # number of planes that the previous slab carried over
        self._first, self._finished = 0, 0  # of the slab
        self._loaded = 0  # lines of the slab before this one were loaded into the ring buffer

    def begin(self, slab: Slab) -> None:
        """Start a slab."""
        self._first, self._finished = slab.first, slab.finished
        self._loaded = 0

    def end(self) -> int:
        """Finish the slab and return the first plane of the next tile."""
        self._carried = self._depth - self._finished
        return self._first + self._finished

    def _split(self, start: int, stop: int) -> Iterator[tuple[int, slice]]:
        """Split lines at the end of the ring buffer.

        Yields:
            First line of each part, and its position in the ring buffer.
        """
        width = self._ring.shape[2]
        while start < stop:
            position = start % width
            count = min(stop - start, width - position)
            yield start, slice(position, position + count)
            start += count

    def load(self, start: int, stop: int) -> None:
        """Load lines `start` to `stop` into the ring buffer, with the planes that were carried over."""
        for first, position in self._split(max(start, self._loaded), stop):
            new = self._ring[:, :, position]
            self._workers.each(lambda channel: channel.fill(0), new)  # all planes: one run of memory
            if self._carried:
                self._carry_over.load(first, new[:, : self._carried])
        self._loaded = stop

    def add(self, start: Shape3, logits: NDArray[np.float32]) -> None:
        """Add the weighted logits (C, X, Y, Z) of a window that starts at `start` on the padded grid."""
        _, u, v = self._axes
        size, additions, part = (
            self._plan.patch_size,
            [],
            slice(start[v], start[v] + self._plan.patch_size[v]),
        )
        for first, position in self._split(start[u], start[u] + size[u]):
            index = [slice(None)] * 3
            index[u] = slice(first - start[u], first - start[u] + position.stop - position.start)
            sums = self._ring[:, :, position, part]
            additions += self._additions(sums, logits[:, *index], self._weights[tuple(index)])
        count = len(self._scratch)
        shares = [additions[worker::count] for worker in range(count)]
        self._workers.each(_accumulate, shares, self._scratch)

    def _additions(
        self, sums: NDArray[np.float32], logits: NDArray[np.float32], weights: NDArray[np.float32]
    ) -> list[_Addition]:
        """Split the addition of lines of a window into parts that fit the processor cache.

        Args:
            sums: (C + 1, a, u, v) sums of logits and weights.
            logits: (C, X, Y, Z) of the window.
            weights: (X, Y, Z) of the window.
        """
        *totals, norm = [total.transpose(self._to_grid) for total in sums]
        outputs, (length, *face) = [logits[channel] for channel in self._channels], weights.shape
        step = max(1, _CACHED_VOXELS // math.prod(face))
        cuts = [slice(first, first + step) for first in range(0, length, step)]
        return [
            _Addition(
                weights[cut], norm[cut], [(t[cut], m[cut]) for t, m in zip(totals, outputs, strict=True)]
            )
            for cut in cuts
        ]

    def finish(self, start: int, stop: int) -> Iterator[Tile]:
        """Emit lines `start` to `stop` of the slab as tiles, and carry their unfinished planes over."""
        for line in range(start, stop, self._tile_lines):
            end = min(line + self._tile_lines, stop)
            self.load(
                line, max(end, self._loaded)
            )  # lines that no window of this slab touches may be missing
            for first, position in self._split(line, end):
                yield self._emit(first, self._ring[:, :, position])

    def _emit(self, start: int, lines: NDArray[np.float32]) -> Tile:
        """Return the finished planes of lines as a tile, and carry the other planes over.

        Args:
            start: First line.
            lines: (C + 1, a, u, v) sums of logits and weights.
        """
        if self._depth > self._finished:
            self._carry_over.store(start, lines[:, self._finished :])
        return self._divide(self._first, start, lines[:, : self._finished])

    def empty(self, first: int, stop: int) -> Iterator[Tile]:
        """Emit planes `first` to `stop`, where no window lies, in tiles no deeper than a window."""
        axis, depth = self._plan.axis, self._plan.patch_size[self._plan.axis]
        for begin in range(first, stop, depth):
            shape = list(self._plan.padded)
            shape[axis] = min(depth, stop - begin)
            start = tuple(begin if a == axis else 0 for a in range(3))
            zeros = np.broadcast_to(np.float32(0), (len(self._channels), *shape))
            yield Tile(start=(start[0], start[1], start[2]), logits=zeros)

    def _divide(self, plane: int, line: int, sums: NDArray[np.float32]) -> Tile:
        """Divide sums of logits by sums of weights; the result is zero where there are no weights.

        Args:
            plane: First plane.
            line: First line.
            sums: (C + 1, a, u, v) sums of logits and weights.
        """
        totals, norm = sums[:-1], sums[-1]
        shape = tuple(totals.shape[1 + axis] for axis in self._to_grid)
        tile = self._tile[: len(totals) * math.prod(shape)].reshape(len(totals), *shape)
        covered = None if norm.min(initial=1) > 0 else norm > 0

        def divide(total: NDArray[np.float32], logits: NDArray[np.float32]) -> None:
            if covered is None:
                np.divide(total, norm, out=logits)
            else:
                logits[~covered] = 0
                np.divide(total, norm, out=logits, where=covered)

        self._workers.each(divide, totals, tile.transpose(0, *(1 + axis for axis in self._axes)))
        x, y, z = (i for _, i in sorted(zip(self._axes, (plane, line, 0), strict=True)))
        return Tile(start=(x, y, z), logits=tile)


def _accumulate(additions: Sequence[_Addition], scratch: NDArray[np.float32]) -> None:
    """Add weighted logits and weights, one part after another; `scratch` holds the product of one part."""
    for weights, norm, channels in additions:
        product = scratch[: weights.size].reshape(weights.shape)
        for total, logit in channels:
            np.multiply(logit, weights, out=product)
            np.add(total, product, out=total)
        np.add(norm, weights, out=norm)
