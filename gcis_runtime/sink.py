"""Where finished labels go: a label map on the file's grid, counts, and each structure's mask on request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.geometry import GridTrace
from gcis_runtime.resample import Box
from gcis_runtime.spec import Shape3

_Piece = tuple[Box, NDArray[np.uint8]]


class LabelSink:
    """Collects boxes of labels given on the re-oriented file grid (the network's axes, the file's voxels).

    Args:
        trace: Re-orientation of the file.
        shape: The file's grid (X, Y, Z).
        values: Label value of each structure.
        masks: Keep a mask of each structure too: structures may overlap, a label map has room for one.

    Attributes:
        labels: (X, Y, Z) on the file's grid in NIfTI's memory order, uint8, or uint16 for values above 255.
    """

    def __init__(self, *, trace: GridTrace, shape: Shape3, values: Sequence[int], masks: bool) -> None:
        self._trace, self._shape, self._values = trace, shape, tuple(values)
        self.labels = np.zeros(shape, dtype=np.uint8 if max(values) <= 255 else np.uint16, order="F")
        self._target = trace.oriented(self.labels)
        self._counts = np.zeros(max(values) + 1, dtype=np.int64)
        self._pieces: list[list[_Piece]] | None = [[] for _ in values] if masks else None

    @property
    def wants_masks(self) -> bool:
        """Whether `put_mask` is expected."""
        return self._pieces is not None

    def put(self, box: Box, labels: NDArray[np.unsignedinteger]) -> None:
        """Store a box of labels; boxes may overlap where all but one are 0. What no box covers is 0."""
        np.copyto(self._target[box], labels, where=labels > 0)
        self._counts += np.bincount(labels.ravel(), minlength=len(self._counts))

    def put_mask(self, index: int, box: Box, inside: NDArray[np.bool_]) -> None:
        """Store where structure `index` has a positive margin, one bit a voxel."""
        if self._pieces is not None and inside.any():
            self._pieces[index].append((box, np.packbits(inside)))

    def counts(self) -> dict[int, int]:
        """Return how many voxels have each structure's label value."""
        return {value: int(self._counts[value]) for value in self._values}

    def masks(self) -> Masks | None:
        """Return the masks stored so far, or None when they were not asked for."""
        if self._pieces is None:
            return None
        return Masks(
            trace=self._trace,
            shape=self._shape,
            pieces=dict(zip(self._values, map(tuple, self._pieces), strict=True)),
        )


class Masks:
    """Binary masks by label value, each unpacked when asked for: fifty whole ones would be gigabytes."""

    def __init__(self, *, trace: GridTrace, shape: Shape3, pieces: dict[int, tuple[_Piece, ...]]) -> None:
        self._trace, self._shape, self._pieces = trace, shape, pieces

    def __iter__(self) -> Iterator[int]:
        """Iterate over the label values."""
        return iter(self._pieces)

    def __getitem__(self, value: int) -> NDArray[np.uint8]:
        """Return the mask of the structure with label `value`: 0 and 1, (X, Y, Z) on the file's grid."""
        mask = np.zeros(self._shape, dtype=np.uint8, order="F")
        target = self._trace.oriented(mask)
        for box, bits in self._pieces[value]:
            shape = tuple(part.stop - part.start for part in box)
            target[box] |= np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape)
        return mask
