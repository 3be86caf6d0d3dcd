"""Order the windows of a plan in slabs, and size the buffers that blending needs.

Windows run slab by slab along the plan's slab axis `a`, within a slab row by row along `u`, and within a row
along `v`. A plane holds the voxels with one index along `a`; a line holds the voxels of a plane with one
index along `u`. Blending uses the same `Schedule` on the CPU and on a GPU, with buffers of different shapes:

- On the CPU, a ring buffer along `u` holds one row of windows. Planes to which a later slab adds are carried
  over in memory or in a file.
- On a GPU, a ring buffer along the slab axis holds whole planes, one window deep, and nothing is carried
  over.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, groupby, pairwise

from gcis_runtime.grids.box import with_length
from gcis_runtime.sliding.plan import WindowPlan
from gcis_runtime.spec import FLOAT32_BYTES, Shape3


@dataclass(frozen=True, kw_only=True)
class WindowRow:
    """Windows of a slab that start at the same index along `u`.

    Attributes:
        first: That index, the first line of the row.
        end: First line of the next row, or the end of the grid. No later row of the slab adds to lines before
            it.
        windows: First index (X, Y, Z) of each window on the padded grid, ordered along `v`.
    """

    first: int
    end: int
    windows: tuple[Shape3, ...]


@dataclass(frozen=True, kw_only=True)
class Slab:
    """Windows that start at the same plane.

    Attributes:
        number: Index of the slab, from 0.
        first: That plane of the padded grid.
        end: First plane of the next slab, or the end of the grid.
        finished: Number of planes from `first` on that no later slab adds to.
        rows: Rows of windows.
        windows_before: Number of windows in earlier slabs.
        new_first: First plane that no earlier slab reads.
        new_planes: Number of planes that no earlier slab reads.
        loaded_before: Number of planes read by earlier slabs that precede `first`. On the GPU, planes of the
            image lie in their ring buffer in the order in which they were loaded.
    """

    number: int
    first: int
    end: int
    finished: int
    rows: tuple[WindowRow, ...]
    windows_before: int
    new_first: int
    new_planes: int
    loaded_before: int

    @cached_property
    def windows(self) -> tuple[Shape3, ...]:
        """First index (X, Y, Z) of each window on the padded grid, in the order in which they run."""
        return tuple(chain.from_iterable(row.windows for row in self.rows))


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Slabs of a plan, and the shapes of the buffers for blending them. Made by `make_schedule`.

    Attributes:
        plan: The window plan.
        slabs: Slabs in the order in which they run; empty for a plan without windows.
        carried_planes: Largest number of planes that a slab carries over to the next.
        tile_lines: Largest number of lines along `u` in a tile.
    """

    plan: WindowPlan
    slabs: tuple[Slab, ...]
    carried_planes: int
    tile_lines: int

    @property
    def finished_planes(self) -> int:
        """Largest number of planes that a slab finishes."""
        return max((slab.finished for slab in self.slabs), default=0)

    @property
    def slab_windows(self) -> int:
        """Largest number of windows in a slab."""
        return max((len(slab.windows) for slab in self.slabs), default=0)

    @property
    def later_planes(self) -> int:
        """Largest number of planes that a slab other than the first reads and no earlier slab reads."""
        return max((slab.new_planes for slab in self.slabs[1:]), default=0)

    @property
    def tile_shape(self) -> Shape3:
        """A shape (X, Y, Z) that holds every tile where windows lie."""
        return self._shape(planes=self.finished_planes, lines=self.tile_lines)

    @property
    def ring_shape(self) -> Shape3:
        """Shape (X, Y, Z) of the CPU's ring buffer: one row of windows."""
        plan = self.plan
        return self._shape(planes=plan.patch_size[plan.axis], lines=plan.patch_size[plan.across[0]])

    @property
    def carry_over_shape(self) -> Shape3:
        """Shape (X, Y, Z) of the planes that the CPU carries over from one slab to the next."""
        return self._shape(planes=self.carried_planes, lines=self.plan.padded[self.plan.across[0]])

    def plane_ring_shape(self, extra_planes: int) -> Shape3:
        """Return the shape (X, Y, Z) of a ring buffer of whole planes on a GPU.

        Args:
            extra_planes: Planes in addition to one window.
        """
        plan = self.plan
        return with_length(plan.padded, plan.axis, plan.patch_size[plan.axis] + extra_planes)

    def _shape(self, *, planes: int, lines: int) -> Shape3:
        u, v = self.plan.across
        size = {self.plan.axis: planes, u: lines, v: self.plan.padded[v]}
        return size[0], size[1], size[2]

    def carry_over_bytes(self, channels: int) -> int:
        """Return the bytes of the sums of logits and weights that the CPU carries over."""
        return FLOAT32_BYTES * (channels + 1) * math.prod(self.carry_over_shape)

    def working_bytes(self, channels: int) -> int:
        """Return the bytes of the CPU's ring buffer and one tile, without scratch memory."""
        ring, tile = math.prod(self.ring_shape), math.prod(self.tile_shape)
        return FLOAT32_BYTES * ((channels + 1) * ring + channels * tile)


def make_schedule(plan: WindowPlan) -> Schedule:
    """Group the windows of a plan into slabs and rows."""
    depth, (u, _) = plan.patch_size[plan.axis], plan.across
    groups = [(first, tuple(windows)) for first, windows in groupby(plan.starts, key=lambda s: s[plan.axis])]
    ends = [*(first for first, _ in groups[1:]), plan.padded[plan.axis]]
    slabs: list[Slab] = []
    loaded_to, loaded, before = 0, 0, 0
    for number, ((first, windows), end) in enumerate(zip(groups, ends, strict=False)):  # no windows: one end
        new_first = max(first, loaded_to)
        new_planes = first + depth - new_first
        slabs.append(
            Slab(
                number=number,
                first=first,
                end=end,
                finished=min(end - first, depth),
                rows=_rows(windows, u, plan.padded[u]),
                windows_before=before,
                new_first=new_first,
                new_planes=new_planes,
                loaded_before=loaded - (new_first - first),
            )
        )
        loaded_to, loaded, before = first + depth, loaded + new_planes, before + len(windows)
    finished = [row.end - row.first for slab in slabs for row in slab.rows[:-1]]
    return Schedule(
        plan=plan,
        slabs=tuple(slabs),
        carried_planes=max((depth - slab.finished for slab in slabs), default=0),
        tile_lines=min(plan.patch_size[u], max(finished, default=plan.patch_size[u])),
    )


def _rows(windows: tuple[Shape3, ...], u: int, end: int) -> tuple[WindowRow, ...]:
    """Group the windows of a slab by their start along `u`."""
    rows = [(first, tuple(row)) for first, row in groupby(windows, key=lambda start: start[u])]
    return tuple(
        WindowRow(first=first, end=after, windows=row)
        for (first, row), (after, _) in pairwise([*rows, (end, ())])
    )
