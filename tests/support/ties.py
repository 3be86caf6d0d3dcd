"""Find file voxels that lie halfway between network voxels, where rounding noise decides the nearest one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.grids.grid_transform import GridTransform

_NOISE = 1e-6
"""Network voxels. Coordinates carry noise of 1e-17, or 1e-8 where a header keeps directions as float32."""


def decided_voxels(
    shape: tuple[int, int, int], affine: NDArray[np.float64], transform: GridTransform
) -> NDArray[np.bool_]:
    """Return the file voxels whose nearest network voxel does not depend on the processor.

    On a grid that is parallel to the patient's axes all are decided: ties are exact there. On an oblique or
    sheared grid the last bit of a 4 x 4 matrix product decides a tie, and PyTorch's products differ between
    processors (Intel and AMD were compared: 1 to 6 % of labels of random label maps, all of them ties).
    """
    if np.count_nonzero(np.abs(affine[:3, :3]) > 1e-12) == 3:
        return np.ones(shape, dtype=np.bool_)
    position = _positions(shape, affine, transform)
    return (np.abs(position % 1 - 0.5) > _NOISE).all(axis=0)


def one_of_the_nearest(
    restored: NDArray[Any], labels: NDArray[Any], affine: NDArray[np.float64], transform: GridTransform
) -> NDArray[np.bool_]:
    """Return where a restored label is that of a nearest network voxel, whichever of equally near ones."""
    position = _positions(restored.shape, affine, transform)
    found = np.zeros(restored.shape, dtype=np.bool_)
    for shift in np.ndindex(2, 2, 2):
        moved = position + (np.array(shift).reshape(3, 1, 1, 1) * 2 - 1) * _NOISE
        index = [np.clip(np.rint(p).astype(int), 0, n - 1) for p, n in zip(moved, labels.shape, strict=True)]
        found |= restored == labels[tuple(index)]
    return found


def _positions(
    shape: tuple[int, ...], affine: NDArray[np.float64], transform: GridTransform
) -> NDArray[np.float64]:
    """Return the network coordinates (3, X, Y, Z) of a file's voxels, clipped to the network's grid."""
    matrix = np.linalg.solve(transform.affine, affine)
    index = np.indices(shape).reshape(3, -1)
    last = np.array(transform.shape)[:, None] - 1
    return np.clip(matrix[:3, :3] @ index + matrix[:3, 3:], 0, last).reshape(3, *shape)
