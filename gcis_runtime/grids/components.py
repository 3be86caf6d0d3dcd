"""Find connected components of masks from runs of voxels: memory grows with surfaces, not with volumes."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.spec import Shape3

Connectivity = Literal[6, 26]
"""Number of neighbours of a voxel: 6 share a face; 26 share a face, an edge or a corner."""

_CHUNK = 1 << 22
"""Number of voxels that are examined at a time."""
_INDEXED = 1 << 18
"""Number of voxels whose indices are held at a time, 40 bytes each."""
_FORWARD = {6: ((0, 1), (1, 0)), 26: ((0, 1), (1, -1), (1, 0), (1, 1))}
"""Neighbouring lines (first axis, second axis) that follow a line in the order of the runs."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Runs:
    """The set voxels of a mask as runs along its last axis, in the order of a C array.

    Attributes:
        shape: Shape of the mask.
        line: (N,) Index of the line of each run: first index times the length of the second axis, plus the
            second index.
        start: (N,) First voxel along the last axis.
        stop: (N,) End along the last axis, excluded.
    """

    shape: Shape3
    line: NDArray[np.int64]
    start: NDArray[np.int64]
    stop: NDArray[np.int64]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(N,) Number of voxels of each run."""
        return self.stop - self.start

    def selected(self, chosen: NDArray[np.bool_]) -> Runs:
        """Return some of the runs.

        Args:
            chosen: (N,) Whether to return a run.
        """
        return Runs(
            shape=self.shape, line=self.line[chosen], start=self.start[chosen], stop=self.stop[chosen]
        )

    def voxels(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return the indices of all voxels along the three axes."""
        lengths = self.lengths
        first = np.cumsum(lengths) - lengths
        line = np.repeat(self.line, lengths)
        inside = np.arange(int(lengths.sum()), dtype=np.int64) - np.repeat(first - self.start, lengths)
        return line // self.shape[1], line % self.shape[1], inside

    def parts(self) -> list[Runs]:
        """Return the runs in parts of a limited number of voxels, whose indices need little memory."""
        group = np.cumsum(self.lengths) // _INDEXED
        ends = np.flatnonzero(np.diff(group)) + 1
        bounds = [0, *(int(end) for end in ends), len(self.line)]
        return [
            Runs(shape=self.shape, line=self.line[a:b], start=self.start[a:b], stop=self.stop[a:b])
            for a, b in itertools.pairwise(bounds)
            if b > a
        ]


def find_runs(shape: Shape3, mask: Callable[[slice], NDArray[np.bool_]]) -> Runs:
    """Return the runs of a mask that is computed a few planes at a time.

    Args:
        shape: Shape of the mask.
        mask: Function that returns the planes of a range along the first axis.
    """
    depth, rows, width = shape
    step = max(1, _CHUNK // max(rows * width, 1))
    found = []
    for first in range(0, depth, step):
        planes = mask(slice(first, min(first + step, depth)))
        bordered = np.zeros((*planes.shape[:2], width + 2), dtype=np.int8)
        bordered[:, :, 1:-1] = planes
        change = np.diff(bordered, axis=2).ravel()  # 1 at the first voxel of a run, -1 at its end
        begins, ends = np.flatnonzero(change == 1), np.flatnonzero(change == -1)
        line, start = np.divmod(begins, width + 1)
        found.append((line + first * rows, start, ends % (width + 1)))
    line, start, stop = (np.concatenate(part).astype(np.int64) for part in zip(*found, strict=True))
    return Runs(shape=shape, line=line, start=start, stop=stop)


def components(runs: Runs, connectivity: Connectivity) -> NDArray[np.int64]:
    """Return the component of each run, (N,): the index of the first run of the component.

    Args:
        runs: The runs of a mask.
        connectivity: Number of neighbours of a voxel.
    """
    parent = np.arange(len(runs.line), dtype=np.int64)
    first, second = _touching(runs, connectivity)
    while len(first):
        a, b = parent[first], parent[second]
        apart = a != b
        first, second, a, b = first[apart], second[apart], a[apart], b[apart]
        parent[np.maximum(a, b)] = np.minimum(a, b)
        while True:
            above = parent[parent]
            if np.array_equal(above, parent):
                break
            parent = above
    return parent


def _touching(runs: Runs, connectivity: Connectivity) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the pairs of runs of different lines that contain neighbouring voxels."""
    depth, rows, width = runs.shape
    reach = int(connectivity == 26)
    stride = width + 2  # the extended end of a line stays below the extended start of the next one
    begins, ends = runs.line * stride + runs.start, runs.line * stride + runs.stop
    z, y = np.divmod(runs.line, rows)
    pairs = []
    for dz, dy in _FORWARD[connectivity]:
        inside = (z + dz < depth) & (y + dy >= 0) & (y + dy < rows)
        index = np.flatnonzero(inside)
        move = (dz * rows + dy) * stride
        low = np.searchsorted(ends, begins[index] + (move - reach), side="right")
        high = np.searchsorted(begins, ends[index] + (move + reach), side="left")
        count = np.maximum(high - low, 0)
        offset = np.cumsum(count) - count
        other = np.arange(int(count.sum()), dtype=np.int64) + np.repeat(low - offset, count)
        pairs.append((np.repeat(index, count), other))
    first, second = (np.concatenate(part) for part in zip(*pairs, strict=True))
    return first, second


def sizes(runs: Runs, component: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the number of voxels of each component, (N,); 0 where a run is not the first of its component.

    Args:
        runs: The runs.
        component: (N,) Component of each run, as returned by `components`.
    """
    total = np.bincount(component, weights=runs.lengths, minlength=len(runs.line))  # exact below 2 ** 53
    return total.astype(np.int64)


def enclosed(runs: Runs, component: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return for each run, (N,), whether its component does not reach a face of the grid.

    Args:
        runs: The runs.
        component: (N,) Component of each run, as returned by `components`.
    """
    depth, rows, width = runs.shape
    z, y = np.divmod(runs.line, rows)
    border = (z == 0) | (z == depth - 1) | (y == 0) | (y == rows - 1)
    border |= (runs.start == 0) | (runs.stop == width)
    reaches = np.zeros(len(runs.line), dtype=np.bool_)
    reaches[component[border]] = True
    return np.asarray(~reaches[component])
