"""Collect labels on the file grid, count their voxels, and store masks and probabilities on request."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.grids.box import Box
from gcis_runtime.grids.grid_transform import GridTransform
from gcis_runtime.spec import Shape3, label_dtype

_Piece = tuple[Box, bytes]
_Pieces = list[list[_Piece]]
_COUNTED = 1 << 16
"""Voxels whose labels are counted at a time."""
_BLOCK_PLANES, _BLOCK_LINE = 32, 64
"""Planes, and voxels along their fastest axis, of a block that is transposed at a time."""


class LabelSink:
    """Collector of labels in boxes of the reoriented file grid (axes of the network, voxels of the file).

    Args:
        transform: Transform that reorients the file grid.
        shape: Shape of the file grid (X, Y, Z).
        values: Label value of each structure.
        masks: Also store one mask per structure: structures may overlap, which a label map cannot represent.
        probabilities: Also store one map of foreground probabilities per structure.
        within: Boxes of the reoriented file grid outside which all voxels are background; None for no limit.

    Attributes:
        labels: (X, Y, Z) on the file grid in the memory order of NIfTI; uint8 or uint16.
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
        self.labels = np.zeros(shape, dtype=label_dtype(max(values)), order="F")
        self._target = transform.oriented(self.labels)
        self._counts = np.zeros(max(values) + 1, dtype=np.int64)
        self._masks: _Pieces | None = [[] for _ in values] if masks else None
        self._probabilities: _Pieces | None = [[] for _ in values] if probabilities else None

    @property
    def wants_masks(self) -> bool:
        """Whether masks are stored."""
        return self._masks is not None

    @property
    def wants_probabilities(self) -> bool:
        """Whether probabilities are stored."""
        return self._probabilities is not None

    @property
    def wants_logits(self) -> bool:
        """Whether masks or probabilities are stored, which are computed from logits."""
        return self.wants_masks or self.wants_probabilities

    def put(self, box: Box, labels: NDArray[np.unsignedinteger]) -> None:
        """Store the labels of a box. Where boxes overlap, at most one may be nonzero. Other voxels are 0."""
        labels = self._inside(box, labels)
        _merge(self._target[box], labels)
        flat = labels.ravel()
        for first in range(0, flat.size, _COUNTED):
            self._counts += _count(flat[first : first + _COUNTED], len(self._counts))

    def put_mask(self, index: int, box: Box, inside: NDArray[np.bool_]) -> None:
        """Store the mask of structure `index` in a box, one bit per voxel."""
        inside = self._inside(box, inside)
        if self._masks is not None and inside.any():
            self._masks[index].append((box, np.packbits(inside).tobytes()))

    def put_probability(self, index: int, box: Box, scaled: NDArray[np.uint8]) -> None:
        """Store the probability times 255 of structure `index` in a box, compressed: most are 0 or 255."""
        scaled = self._inside(box, scaled)
        if self._probabilities is not None and scaled.any():
            self._probabilities[index].append((box, zlib.compress(scaled.tobytes(), level=1)))

    def _inside(self, box: Box, values: NDArray[Any]) -> NDArray[Any]:
        """Return the values of a box with zero outside `within`; unchanged if there is no limit."""
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
        """Return the number of voxels per label value."""
        return {value: int(self._counts[value]) for value in self._values}

    def masks(self) -> StructureMaps | None:
        """Return the masks, with values 0 and 1, or None if masks are not stored."""
        return self._maps(self._masks, _unpack_bits)

    def probabilities(self) -> StructureMaps | None:
        """Return the probabilities times 255, or None if probabilities are not stored."""
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


def _merge(target: NDArray[np.unsignedinteger], labels: NDArray[np.unsignedinteger]) -> None:
    """Combine the labels of a box with those that are stored; at most one of both is nonzero per voxel.

    The target has the memory order of the file and `labels` that of the network's axes. If their fastest axes
    differ, blocks that fit into the processor cache are transposed, which takes a quarter of the time of
    walking through one of them with the strides of the other.
    """
    flipped = tuple(axis for axis in range(3) if target.strides[axis] < 0)
    target, labels = np.flip(target, flipped), np.flip(labels, flipped)
    if np.argmin(np.abs(labels.strides)) == np.argmin(target.strides):
        np.bitwise_or(target, labels, out=target, casting="same_kind")
        return
    order = np.argsort(target.strides)[::-1]
    target, labels = target.transpose(order), labels.transpose(order)
    for z in range(0, target.shape[0], _BLOCK_PLANES):
        for x in range(0, target.shape[2], _BLOCK_LINE):
            block = slice(z, z + _BLOCK_PLANES), slice(None), slice(x, x + _BLOCK_LINE)
            added = np.ascontiguousarray(labels[block])
            np.bitwise_or(target[block], added, out=target[block], casting="same_kind")


def _count(flat: NDArray[np.unsignedinteger], least: int) -> NDArray[np.int64]:
    """Return the number of voxels per label value, for values below `least` or up to the largest one.

    Runs of equal labels are counted, because they are long, and `bincount` takes 2 ns per element.
    """
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    lengths = np.diff(starts, append=flat.size)
    return np.bincount(flat[starts], weights=lengths, minlength=least).astype(np.int64)


class StructureMaps:
    """Maps of structures by label value, unpacked on access: fifty unpacked maps would take gigabytes."""

    def __init__(
        self,
        *,
        transform: GridTransform,
        shape: Shape3,
        pieces: dict[int, tuple[_Piece, ...]],
        unpack: Callable[[bytes, int], NDArray[np.uint8]],
        change: Callable[[int, NDArray[np.uint8]], None] | None = None,
    ) -> None:
        self._transform, self._shape, self._pieces, self._unpack = transform, shape, pieces, unpack
        self._change = change

    def changed(self, change: Callable[[int, NDArray[np.uint8]], None]) -> StructureMaps:
        """Return the maps with a change that is applied whenever a map is unpacked.

        Args:
            change: Function that receives the label value and the map (X, Y, Z), which it changes in place.
        """
        return StructureMaps(
            transform=self._transform,
            shape=self._shape,
            pieces=self._pieces,
            unpack=self._unpack,
            change=change,
        )

    def __iter__(self) -> Iterator[int]:
        """Iterate over the label values."""
        return iter(self._pieces)

    def __getitem__(self, value: int) -> NDArray[np.uint8]:
        """Return the map (X, Y, Z) of the structure with label `value` on the file grid."""
        out = np.zeros(self._shape, dtype=np.uint8, order="F")
        target = self._transform.oriented(out)
        for box, packed in self._pieces[value]:
            shape = tuple(part.stop - part.start for part in box)
            part = target[box]
            np.maximum(part, self._unpack(packed, int(np.prod(shape))).reshape(shape), out=part)
        if self._change is not None:
            self._change(value, out)
        return out


def _unpack_bits(packed: bytes, count: int) -> NDArray[np.uint8]:
    return np.unpackbits(np.frombuffer(packed, dtype=np.uint8), count=count)


def _inflate(packed: bytes, count: int) -> NDArray[np.uint8]:
    return np.frombuffer(zlib.decompress(packed, bufsize=count), dtype=np.uint8)
