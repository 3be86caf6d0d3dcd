"""Where finished labels go: a label map on the file's grid and counts; masks and probabilities on request."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.grids.box import Box
from gcis_runtime.grids.grid_transform import GridTransform
from gcis_runtime.spec import Shape3

_Piece = tuple[Box, bytes]
_Pieces = list[list[_Piece]]


class LabelSink:
    """Collects boxes of labels given on the re-oriented file grid (the network's axes, the file's voxels).

    Args:
        transform: Re-orientation of the file.
        shape: The file's grid (X, Y, Z).
        values: Label value of each structure.
        masks: Keep a mask of each structure too: structures may overlap, a label map has room for one.
        probabilities: Keep the foreground probability of each structure too.
        within: Boxes of the re-oriented file grid outside which everything is background; None: everywhere.

    Attributes:
        labels: (X, Y, Z) on the file's grid in NIfTI's memory order, uint8, or uint16 for values above 255.
    """

    def __init__(
        self,
        *,
        transform: GridTransform,
        shape: Shape3,
        values: Sequence[int],
        masks: bool,
        probabilities: bool = False,
        within: Sequence[Box] | None = None,
    ) -> None:
        self._transform, self._shape, self._values = transform, shape, tuple(values)
        self._within = within
        self.labels = np.zeros(shape, dtype=np.uint8 if max(values) <= 255 else np.uint16, order="F")
        self._target = transform.oriented(self.labels)
        self._counts = np.zeros(max(values) + 1, dtype=np.int64)
        self._masks: _Pieces | None = [[] for _ in values] if masks else None
        self._probabilities: _Pieces | None = [[] for _ in values] if probabilities else None

    @property
    def wants_masks(self) -> bool:
        """Whether `put_mask` is expected."""
        return self._masks is not None

    @property
    def wants_probabilities(self) -> bool:
        """Whether `put_probability` is expected."""
        return self._probabilities is not None

    @property
    def wants_logits(self) -> bool:
        """Whether labels alone are not enough."""
        return self.wants_masks or self.wants_probabilities

    def put(self, box: Box, labels: NDArray[np.unsignedinteger]) -> None:
        """Store a box of labels; boxes may overlap where all but one are 0. What no box covers is 0."""
        labels = self._inside(box, labels)
        np.copyto(self._target[box], labels, where=labels > 0)
        self._counts += np.bincount(labels.ravel(), minlength=len(self._counts))

    def put_mask(self, index: int, box: Box, inside: NDArray[np.bool_]) -> None:
        """Store where structure `index` has a positive logit, one bit a voxel."""
        inside = self._inside(box, inside)
        if self._masks is not None and inside.any():
            self._masks[index].append((box, np.packbits(inside).tobytes()))

    def put_probability(self, index: int, box: Box, scaled: NDArray[np.uint8]) -> None:
        """Store structure `index`'s probability times 255, compressed: it is 0 or 255 nearly everywhere."""
        scaled = self._inside(box, scaled)
        if self._probabilities is not None and scaled.any():
            self._probabilities[index].append((box, zlib.compress(scaled.tobytes(), level=1)))

    def _inside(self, box: Box, values: NDArray[Any]) -> NDArray[Any]:
        """Return values of a box with zero where background is certain; as they are where nothing is."""
        if self._within is None:
            return values
        kept = np.zeros(values.shape, dtype=np.bool_)
        for part in self._within:
            kept[
                tuple(
                    slice(max(p.start - b.start, 0), max(p.stop - b.start, 0))
                    for p, b in zip(part, box, strict=True)
                )
            ] = True
        return values * kept

    def counts(self) -> dict[int, int]:
        """Return how many voxels have each structure's label value."""
        return {value: int(self._counts[value]) for value in self._values}

    def masks(self) -> StructureMaps | None:
        """Return the masks stored so far, 0 and 1, or None when they were not asked for."""
        return self._maps(self._masks, _unpack_bits)

    def probabilities(self) -> StructureMaps | None:
        """Return the probabilities stored so far, 0 to 255, or None when they were not asked for."""
        return self._maps(self._probabilities, _inflate)

    def _maps(
        self, pieces: _Pieces | None, unpack: Callable[[bytes, int], NDArray[np.uint8]]
    ) -> StructureMaps | None:
        if pieces is None:
            return None
        return StructureMaps(
            transform=self._transform,
            shape=self._shape,
            pieces=dict(zip(self._values, map(tuple, pieces), strict=True)),
            unpack=unpack,
        )


class StructureMaps:
    """One map a structure, by label value, unpacked when asked for: fifty whole ones would be gigabytes."""

    def __init__(
        self,
        *,
        transform: GridTransform,
        shape: Shape3,
        pieces: dict[int, tuple[_Piece, ...]],
        unpack: Callable[[bytes, int], NDArray[np.uint8]],
    ) -> None:
        self._transform, self._shape, self._pieces, self._unpack = transform, shape, pieces, unpack

    def __iter__(self) -> Iterator[int]:
        """Iterate over the label values."""
        return iter(self._pieces)

    def __getitem__(self, value: int) -> NDArray[np.uint8]:
        """Return the map of the structure with label `value`, (X, Y, Z) on the file's grid."""
        out = np.zeros(self._shape, dtype=np.uint8, order="F")
        target = self._transform.oriented(out)
        for box, packed in self._pieces[value]:
            shape = tuple(part.stop - part.start for part in box)
            part = target[box]
            np.maximum(part, self._unpack(packed, int(np.prod(shape))).reshape(shape), out=part)
        return out


def _unpack_bits(packed: bytes, count: int) -> NDArray[np.uint8]:
    return np.unpackbits(np.frombuffer(packed, dtype=np.uint8), count=count)


def _inflate(packed: bytes, count: int) -> NDArray[np.uint8]:
    return np.frombuffer(zlib.decompress(packed, bufsize=count), dtype=np.uint8)
