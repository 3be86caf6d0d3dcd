"""Which rows of the volume each group of windows needs, and which it finishes."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby

from gcis_runtime.sliding.plan import WindowPlan
from gcis_runtime.spec import Shape3


@dataclass(frozen=True, kw_only=True)
class Group:
    """Windows that begin at one row along the slab axis.

    Attributes:
        number: Its place in the plan, from 0.
        first: First row of its windows.
        end: First row of the next group, or the volume's end.
        ready: Rows from `first` on that no later window touches.
        starts: Where its windows begin on the padded grid.
        windows_before: Windows of the groups before it.
        new_first: First row that no group before it needed.
        new_rows: How many such rows there are.
        base: Number of rows that had arrived before its first row: rows lie in the ring in order of arrival.
    """

    number: int
    first: int
    end: int
    ready: int
    starts: tuple[Shape3, ...]
    windows_before: int
    new_first: int
    new_rows: int
    base: int


def group_windows(plan: WindowPlan) -> tuple[Group, ...]:
    """Split a plan by its windows' first row along the slab axis; a plan without windows has no groups."""
    depth = plan.patch_size[plan.axis]
    parts = [(first, tuple(starts)) for first, starts in groupby(plan.starts, key=lambda s: s[plan.axis])]
    ends = [*(first for first, _ in parts[1:]), plan.padded[plan.axis]][: len(parts)]
    groups: list[Group] = []
    arrived_to, arrived, windows = 0, 0, 0
    for number, ((first, starts), end) in enumerate(zip(parts, ends, strict=True)):
        new_first = max(first, arrived_to)
        new_rows = first + depth - new_first
        groups.append(
            Group(
                number=number,
                first=first,
                end=end,
                ready=min(end - first, depth),
                starts=starts,
                windows_before=windows,
                new_first=new_first,
                new_rows=new_rows,
                base=arrived - (new_first - first),
            )
        )
        arrived_to, arrived, windows = first + depth, arrived + new_rows, windows + len(starts)
    return tuple(groups)


def with_axis(shape: Shape3, axis: int, value: int) -> Shape3:
    """Return a shape or place with another number along one axis."""
    x, y, z = (value if a == axis else n for a, n in enumerate(shape))
    return (x, y, z)
