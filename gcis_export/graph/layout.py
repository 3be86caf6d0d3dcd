"""Compute the layout of shifted windows, their order and their masks for a token grid of known size.

MONAI builds one attention mask per window, of which at most eight differ: a window contains a border of the
rolled volume only if it is the last window along an axis, so "last along x, y, z" identifies the mask.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.spec import Shape3


@dataclass(frozen=True, kw_only=True)
class WindowLayout:
    """Windows on the token grid of a stage, placed as by MONAI's `get_window_size` and `compute_mask`.

    Attributes:
        dims: Tokens along (X, Y, Z).
        window: Window size in tokens (X, Y, Z), at most `dims`.
        shift: Tokens that the second block rolls the volume by (X, Y, Z); 0 if one window spans the axis.
    """

    dims: Shape3
    window: Shape3
    shift: Shape3

    @classmethod
    def of(cls, dims: Shape3, window: Shape3) -> WindowLayout:
        """Return the layout of windows of at most `window` tokens on a grid of `dims` tokens."""
        fits = [d <= w for d, w in zip(dims, window, strict=True)]
        size = [d if fit else w for d, w, fit in zip(dims, window, fits, strict=True)]
        shift = [0 if fit else w // 2 for w, fit in zip(window, fits, strict=True)]
        return cls(dims=dims, window=_triple(size), shift=_triple(shift))

    @property
    def counts(self) -> Shape3:
        """Number of windows along (X, Y, Z)."""
        return _triple([-(-d // w) for d, w in zip(self.dims, self.window, strict=True)])

    @property
    def pad(self) -> Shape3:
        """Zero tokens appended along (X, Y, Z)."""
        return _triple([n * w - d for n, w, d in zip(self.counts, self.window, self.dims, strict=True)])

    @property
    def tokens(self) -> int:
        """Number of tokens per window."""
        return int(np.prod(self.window))

    @property
    def windows(self) -> int:
        """Total number of windows."""
        return int(np.prod(self.counts))

    @property
    def shifted(self) -> bool:
        """Whether the second block rolls the volume along any axis."""
        return any(self.shift)

    def patterns(self) -> list[tuple[bool, ...]]:
        """Return the distinct masks of a shifted block as "last along x, y, z"; the first has no border."""
        choices = [self._axis_patterns(axis) for axis in range(3)]
        return list(itertools.product(*choices))

    def groups(self) -> list[list[int]]:
        """Return the row-major indices of the windows per pattern, in the order of `patterns`."""
        # Number of windows that follow along each axis.
        behind = np.array(self.counts) - 1 - np.indices(self.counts).reshape(3, -1).T
        cut = (behind < 1) & (np.array(self.shift) > 0)
        return [np.flatnonzero((cut == np.array(p)).all(axis=1)).tolist() for p in self.patterns()]

    def rolled(self, batch: int = 1) -> NDArray[np.int32]:
        """Return the source token of each position in the shifted windows, which are ordered by pattern.

        One index combines padding, roll, partition and order. The value `batch * X * Y * Z`, one past the
        last token, stands for a zero token.

        Args:
            batch: Batch size; windows of the same pattern are contiguous over all samples.

        Returns:
            Row-major token indices, (batch * windows, tokens).
        """
        count = int(np.prod(self.dims))
        padded = [n * w for n, w in zip(self.counts, self.window, strict=True)]
        volume = np.full(padded, -1)
        volume[tuple(slice(d) for d in self.dims)] = np.arange(count).reshape(self.dims)
        volume = np.roll(volume, [-s for s in self.shift], axis=(0, 1, 2))
        (a, b, c), (i, j, k) = self.counts, self.window
        windows = volume.reshape(a, i, b, j, c, k).transpose(0, 2, 4, 1, 3, 5).reshape(self.windows, -1)
        samples = np.stack([np.where(windows < 0, batch * count, windows + n * count) for n in range(batch)])
        ordered = [samples[:, group].reshape(-1, self.tokens) for group in self.groups()]
        return np.concatenate(ordered).astype(np.int32)

    def unrolled(self, batch: int = 1) -> NDArray[np.int32]:
        """Return the position of each token in the flattened result of `rolled`: (batch * X * Y * Z,)."""
        places = self.rolled(batch).reshape(-1)
        back = np.empty(batch * int(np.prod(self.dims)) + 1, np.int32)
        back[places] = np.arange(len(places))
        return back[:-1]

    def regions(self) -> NDArray[np.int32]:
        """Return the region of each token per pattern: (patterns, tokens).

        Two tokens attend to each other if their region numbers are equal.
        """
        place = np.indices(self.window).reshape(3, -1)
        behind = [place[a] >= self.window[a] - self.shift[a] for a in range(3)]
        rows = [sum((behind[a] & cut[a]).astype(np.int32) << a for a in range(3)) for cut in self.patterns()]
        return np.stack(rows).astype(np.int32)

    def _axis_patterns(self, axis: int) -> tuple[bool, ...]:
        if not self.shift[axis]:
            return (False,)
        return (False, True)  # an axis with a shift has at least two windows


def bias_index(window: int, tokens: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (rows, columns) such that `rows[:, None] - columns[None, :]` is MONAI's relative position index.

    As in MONAI, a smaller window uses the first rows and columns of the index of the full window.

    Args:
        window: Full window size, equal along each axis; the bias table has (2 * window - 1)^3 rows.
        tokens: Number of tokens of the actual window.
    """
    span = 2 * window - 1
    x, y, z = np.indices((window,) * 3).reshape(3, -1)[:, :tokens]
    rows = (x * span + y) * span + z
    centre = (window - 1) * (span * span + span + 1)
    return (rows + centre).astype(np.int64), rows.astype(np.int64)


def _triple(values: list[int]) -> Shape3:
    x, y, z = values
    return x, y, z
