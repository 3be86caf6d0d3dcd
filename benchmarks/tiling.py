"""Generate a CT volume of any shape by tiling a phantom."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.demo.phantom import make_phantom
from gcis_runtime.spec import Shape3, Triple

PHANTOM_SEED = 7
_REPEAT = 2
"""Repeats of each phantom voxel along each axis: a finer phantom takes minutes to generate."""


def tiled(shape: Shape3, voxel: Triple) -> NDArray[np.int16]:
    """Return HU of a tiled phantom, (X, Y, Z) in Fortran order.

    Args:
        shape: Voxels along X, Y, Z.
        voxel: Voxel size in mm.
    """
    x, y, z = (_REPEAT * v for v in voxel)
    tile = make_phantom(PHANTOM_SEED, spacing=(x, y, z)).ct
    for axis in range(3):
        tile = np.repeat(tile, _REPEAT, axis=axis)
        tile = np.take(tile, np.arange(shape[axis]) % tile.shape[axis], axis=axis)
    return np.asfortranarray(tile)


def write_tiled(path: Path, shape: Shape3, voxel: Triple) -> None:
    """Write a CT file of any shape, tiled from a phantom.

    Args:
        path: `.nii.gz` file to write.
        shape: Voxels along X, Y, Z.
        voxel: Voxel size in mm.
    """
    from gcis_runtime import Volume, write_volume  # noqa: PLC0415 (`tiled` does not need nibabel)

    write_volume(path, Volume(array=tiled(shape, voxel), affine=np.diag([*voxel, 1.0])))
