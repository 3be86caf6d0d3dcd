"""Describe boxes of ring buffers as kernel arguments."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.spec import Shape3


@dataclass(frozen=True, kw_only=True)
class RingBox:
    """Box of a ring buffer, in voxels (X, Y, Z).

    Attributes:
        ring: Shape of the ring buffer.
        start: First voxel of the box.
        shape: Shape of the box, which may wrap around the end of the ring buffer.
    """

    ring: Shape3
    start: Shape3
    shape: Shape3

    @property
    def voxels(self) -> int:
        """Number of voxels of the box."""
        return math.prod(self.shape)

    def arguments(self) -> list[NDArray[Any]]:
        """Return the kernel parameters `ring`, `start` and `box`."""
        return [shape_argument(shape) for shape in (self.ring, self.start, self.shape)]


def shape_argument(shape: Sequence[int]) -> NDArray[Any]:
    """Return a shape or an index (X, Y, Z) as a kernel argument: three int32."""
    return np.array(shape, dtype=np.int32)
