"""In which order a plan's windows run, and how large the buffers are that hold what is not finished.

Windows run slab by slab along the plan's slab axis `a`, in a slab row by row along `u`, in a row along `v`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import groupby, pairwise

from gcis_runtime.sliding.plan import WindowPlan
from gcis_runtime.spec import Shape3


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of windows.

    Attributes:
        first: Its first row of voxels.
        end: Rows before this one are finished with it: the first of the next row, or the grid's end.
        windows: First indices of its windows, along `v`.
    """

    first: int
    end: int
    windows: tuple[Shape3, ...]


@dataclass(frozen=True, kw_only=True)
class Slab:
    """Windows that begin at one plane.

    Attributes:
        first: That plane.
        ready: Planes from there on that no later slab touches; the others wait for the next.
        rows: Rows of windows.
    """

    first: int
    ready: int
    rows: tuple[Row, ...]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """A plan's slabs and the buffers that they need.

    Attributes:
        plan: The plan.
        slabs: In the order in which they run.
        waiting: Most planes that wait.
        wide: Most rows of a tile.
    """

    plan: WindowPlan
    slabs: tuple[Slab, ...]
    waiting: int
    wide: int

    @property
    def tile(self) -> Shape3:
        """A shape (X, Y, Z) that holds every tile where windows lie."""
        return self._shape(planes=max((slab.ready for slab in self.slabs), default=0), rows=self.wide)

    @property
    def strip_shape(self) -> Shape3:
        """Return the size of a row of windows in the grid's axis order."""
        return self._shape(
            planes=self.plan.patch_size[self.plan.axis], rows=self.plan.patch_size[self.plan.across[0]]
        )

    @property
    def waiting_shape(self) -> Shape3:
        """Return the size of what waits in the grid's axis order."""
        return self._shape(planes=self.waiting, rows=self.plan.padded[self.plan.across[0]])

    def _shape(self, *, planes: int, rows: int) -> Shape3:
        u, v = self.plan.across
        size = {self.plan.axis: planes, u: rows, v: self.plan.padded[v]}
        return size[0], size[1], size[2]

    def waiting_bytes(self, channels: int) -> int:
        """Return the bytes of sums of logits and weights that wait."""
        return 4 * (channels + 1) * math.prod(self.waiting_shape)

    def working_bytes(self, channels: int) -> int:
        """Return the bytes of a row of windows and a tile, without scratch."""
        return 4 * ((channels + 1) * math.prod(self.strip_shape) + channels * math.prod(self.tile))


def schedule(plan: WindowPlan) -> Schedule:
    """Return how a plan's windows run."""
    depth, (u, _) = plan.patch_size[plan.axis], plan.across
    groups = [(first, tuple(windows)) for first, windows in groupby(plan.starts, key=lambda s: s[plan.axis])]
    ends = [first for first, _ in groups[1:]] + [plan.padded[plan.axis] + depth]
    slabs = tuple(
        Slab(first=first, ready=min(end - first, depth), rows=_rows(windows, u, plan.padded[u]))
        for (first, windows), end in zip(groups, ends, strict=False)
    )
    finished = [row.end - row.first for slab in slabs for row in slab.rows[:-1]]
    return Schedule(
        plan=plan,
        slabs=slabs,
        waiting=max((depth - slab.ready for slab in slabs), default=0),
        wide=min(plan.patch_size[u], max(finished, default=plan.patch_size[u])),
    )


def _rows(windows: tuple[Shape3, ...], u: int, end: int) -> tuple[Row, ...]:
    """Group a slab's windows by their first row."""
    rows = [(first, tuple(row)) for first, row in groupby(windows, key=lambda start: start[u])]
    return tuple(
        Row(first=first, end=after, windows=row) for (first, row), (after, _) in pairwise([*rows, (end, ())])
    )
