"""Collect the windows of one run of the network on a GPU.

The network computes whole batches, so that a run of fewer windows takes as long as a full one. Constant
windows whose output is known take no place in a batch, and a batch may end with windows of the next slab.
"""

from __future__ import annotations

from dataclasses import dataclass

from gcis_runtime.sliding.schedule import Slab
from gcis_runtime.spec import Shape3


@dataclass(frozen=True, kw_only=True)
class BatchedWindow:
    """A window, and where its output lies after the run.

    Attributes:
        slab: The slab of the window.
        start: First index of the window on the padded grid.
        slot: Place in the batch; None for a constant window whose output was kept after an earlier run.
        computed: Whether the window itself is computed in its slot. Otherwise an equal constant window is.
        value: Bits of the value of a constant window; None for any other window.
        kept: Whether its output is kept after the run.
    """

    slab: Slab
    start: Shape3
    slot: int | None
    computed: bool
    value: int | None
    kept: bool

    @property
    def last(self) -> bool:
        """Whether this is the last window of its slab."""
        return self.start == self.slab.windows[-1]


class WindowBatch:
    """Windows of one run, in the order in which their logits are added.

    Args:
        size: Windows that the network computes per run.
        most_kept: Number of outputs of constant windows that are kept.
    """

    def __init__(self, size: int, *, most_kept: int) -> None:
        self._size, self._most_kept = size, most_kept
        self._windows: list[BatchedWindow] = []
        self._kept: set[int] = set()  # values whose output was kept after an earlier run
        self._slots: dict[int, int] = {}  # values whose output will be kept after this run
        self._used = 0

    @property
    def full(self) -> bool:
        """Whether every place is taken."""
        return self._used == self._size

    def add(self, slab: Slab, start: Shape3, value: int | None) -> bool:
        """Add a window to a batch that is not full.

        Args:
            slab: The slab of the window.
            start: First index of the window on the padded grid.
            value: Bits of the value of a constant window; None for any other window.

        Returns:
            Whether the window takes a place; otherwise, an equal output is reused.
        """
        slot, computed, kept = None, False, False
        if value is None or value not in self._kept:
            slot = None if value is None else self._slots.get(value)
            computed = slot is None
        if computed:
            slot, self._used = self._used, self._used + 1
            kept = value is not None and len(self._kept) + len(self._slots) < self._most_kept
            if kept and value is not None:
                self._slots[value] = slot
        self._windows.append(
            BatchedWindow(slab=slab, start=start, slot=slot, computed=computed, value=value, kept=kept)
        )
        return computed

    def take(self) -> list[BatchedWindow]:
        """Return the windows, and begin the next batch."""
        windows, self._windows, self._used = self._windows, [], 0
        self._kept.update(self._slots)
        self._slots.clear()
        return windows
