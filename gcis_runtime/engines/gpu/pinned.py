"""Access page-locked host memory as NumPy arrays."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray


@dataclass(frozen=True, kw_only=True, eq=False)
class Pinned:
    """Page-locked host memory, which the GPU copies asynchronously.

    Attributes:
        address: Host address.
        array: The memory as bytes, (size,) uint8.
    """

    address: int
    array: NDArray[np.uint8]

    def view(self, shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
        """Return the start of the memory as an array of the given shape and data type."""
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        return self.array[:size].view(dtype).reshape(tuple(shape))

    @classmethod
    def at(cls, address: int, size: int) -> Pinned:
        """Return memory that is already allocated; the arrays do not own it."""
        memory = (ctypes.c_uint8 * size).from_address(address)
        return cls(address=address, array=np.ctypeslib.as_array(memory))
