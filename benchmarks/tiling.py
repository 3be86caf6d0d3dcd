"""A volume of any size, tiled from the phantom; numpy alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.demo.phantom import make_phantom
from gcis_runtime.spec import Shape3, Triple

PHANTOM_SEED = 7
_REPEAT = 2
"""A phantom's voxel lies so many times along each axis of the volume: a finer phantom takes minutes."""


def tiled(shape: Shape3, voxel: Triple) -> NDArray[np.int16]:
    """Return HU, (X, Y, Z) in NIfTI's memory order.

    Args:
        shape: Voxels along X, Y, Z.
        voxel: Their size in mm.
    """
    x, y, z = (_REPEAT * v for v in voxel)
    tile = make_phantom(PHANTOM_SEED, spacing=(x, y, z)).ct
    for axis in range(3):
        tile = np.repeat(tile, _REPEAT, axis=axis)
        tile = np.take(tile, np.arange(shape[axis]) % tile.shape[axis], axis=axis)
    return np.asfortranarray(tile)
