"""The grid trace: from a file's grid to the network's, and labels exactly back.

The steps are those of MONAI's `Orientationd` and `Spacingd` (diagonal=False), which training uses, and
their inverses: flip and permute to axis codes, then resample to a voxel size keeping directions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray

from gcis_runtime.grids.box import Box
from gcis_runtime.grids.resample import GridMap, matrix_product
from gcis_runtime.spec import PreprocessSpec, Shape3, Triple

_TOLERANCE = 1e-3
"""MONAI's AFFINE_TOL: spacings this close (mm) are equal, affines this close need no resampling."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GridTransform:
    """How a file's grid became the network's grid. Made by `plan_grid`.

    Attributes:
        flips: File axes that are reversed.
        order: File axis that becomes each network axis, after the flips.
        to_network: Resampling from the re-oriented file grid; None when nothing changes.
        to_file: The way back, for labels; None when nothing changes.
        shape: The network's grid (X, Y, Z).
        affine: (4, 4), network voxel index to RAS+ mm.
    """

    flips: tuple[int, ...]
    order: tuple[int, ...]
    to_network: GridMap | None
    to_file: GridMap | None
    shape: Shape3
    affine: NDArray[np.float64]

    def forward(self, array: NDArray[Any], box: Box | None = None) -> NDArray[Any]:
        """Bring an image to the network's grid.

        Args:
            array: (X, Y, Z) on the file's grid, int16 or float32.
            box: Part of the network's grid; None is all of it. Values do not depend on it.

        Returns:
            (X, Y, Z) of the box: a view of `array` where nothing is resampled, else float32.
        """
        array = self.oriented(array)
        if self.to_network is None:
            return array if box is None else array[box]
        return self.to_network.linear(array, box)

    def oriented(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return a view of an array on the file's grid, flipped and permuted to the network's axes."""
        return np.flip(array, self.flips).transpose(self.order)

    def around(self, low: ArrayLike, high: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the first and the last network voxel whose value or label goes with a part of the file.

        One voxel more on either side than interpolation takes: rounding cannot matter then.

        Args:
            low: Smallest coordinates of the part, voxels of the re-oriented file grid (3,).
            high: Largest.
        """
        matrix = np.eye(4) if self.to_file is None else self.to_file.matrix
        corners = np.stack(np.meshgrid(*np.stack([low, high], axis=1), indexing="ij"), axis=-1).reshape(-1, 3)
        where = corners @ matrix[:3, :3].T + matrix[:3, 3]
        top = np.array(self.shape) - 1
        first = np.clip(np.floor(where.min(axis=0)) - 1, 0, top)
        last = np.clip(np.ceil(where.max(axis=0)) + 1, 0, top)
        return first.astype(np.int64), last.astype(np.int64)

    def restore(self, labels: NDArray[Any]) -> NDArray[Any]:
        """Bring labels on the network's grid back to the file's, nearest voxel.

        Args:
            labels: (X, Y, Z) on the network's grid.

        Returns:
            (X, Y, Z) on the file's grid, same type, contiguous.
        """
        if self.to_file is not None:
            labels = self.to_file.nearest(labels)
        labels = np.flip(labels.transpose(np.argsort(self.order)), self.flips)
        return np.asfortranarray(labels)  # NIfTI's order: writing then needs no copy


def plan_grid(shape: Shape3, affine: NDArray[np.float64], spec: PreprocessSpec) -> GridTransform:
    """Work out the trace from a file's grid to the grid that `spec` asks for.

    Args:
        shape: The file's grid (X, Y, Z).
        affine: (4, 4), file voxel index to RAS+ mm, invertible.
        spec: Orientation and spacing of the network's input.
    """
    flips: tuple[int, ...] = ()
    order: tuple[int, ...] = (0, 1, 2)
    if spec.orientation is not None:
        target = nib.orientations.axcodes2ornt(spec.orientation)
        change = nib.orientations.ornt_transform(nib.io_orientation(affine), target)
        flips = tuple(int(axis) for axis in range(3) if change[axis, 1] == -1)
        order = tuple(int(axis) for axis in np.argsort(change[:, 0]))
        affine = matrix_product(affine, nib.orientations.inv_ornt_aff(change, shape))
        shape = (shape[order[0]], shape[order[1]], shape[order[2]])
    to_network = None if spec.spacing is None else _resampling(shape, affine, spec.spacing)
    if to_network is None:
        return GridTransform(
            flips=flips, order=order, to_network=None, to_file=None, shape=shape, affine=affine
        )
    spaced = matrix_product(affine, to_network.matrix)
    return GridTransform(
        flips=flips,
        order=order,
        to_network=to_network,
        to_file=GridMap(matrix=_solve(spaced, affine), shape_in=to_network.shape_out, shape_out=shape),
        shape=to_network.shape_out,
        affine=spaced,
    )


def _resampling(shape: Shape3, affine: NDArray[np.float64], spacing: Triple) -> GridMap | None:
    """Return the map to `spacing`, or None when the grid is that already."""
    current = np.sqrt(np.sum(affine[:3, :3] ** 2, axis=0))
    wanted = np.where(np.abs(current - spacing) <= _TOLERANCE, current, spacing)
    target = _zoomed(affine, wanted)
    shape_out, target[:3, 3] = _extent(shape, affine, target)
    matrix = _solve(affine, target)
    same_grid = np.allclose(affine, target, atol=_TOLERANCE) or np.allclose(
        matrix, np.eye(4), atol=_TOLERANCE
    )
    if same_grid and shape_out == shape:
        return None
    return GridMap(matrix=matrix, shape_in=shape, shape_out=shape_out)


def _solve(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the index map from grid `b` to grid `a`."""
    return np.asarray(np.linalg.solve(a, b), dtype=np.float64)


def _zoomed(affine: NDArray[np.float64], spacing: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the affine's rotation with another spacing, without shear or translation (`zoom_affine`)."""
    linear = affine[:3, :3]
    zoom = np.linalg.cholesky(linear.T @ linear).T
    out = np.eye(4)
    out[:3, :3] = linear @ np.linalg.inv(zoom) @ np.diag(np.sign(np.diag(zoom)) * spacing)
    return out


def _extent(
    shape: Shape3, affine: NDArray[np.float64], target: NDArray[np.float64]
) -> tuple[Shape3, NDArray[np.float64]]:
    """Return shape and origin (mm) of the target grid (MONAI `compute_shape_offset`).

    The first voxel centre stays where it was. Only if no corner of the box is smallest along every axis
    (shear, or header noise above 1e-8 voxel) is the grid centred instead, with MONAI's `shape / 2` as centre.
    """
    sides = [(0.0, n - 1.0) for n in shape]
    corners = np.array(np.meshgrid(*sides, indexing="ij")).reshape(3, -1)
    corners = np.concatenate([corners, np.ones_like(corners[:1])])
    inside = (np.linalg.solve(target, affine) @ corners)[:3]
    x, y, z = (int(n) for n in np.round(np.ptp(inside, axis=1) + 1.0))
    for i in range(corners.shape[1]):
        if np.allclose(np.min(inside - inside[:, i : i + 1], axis=1), 0.0, rtol=_TOLERANCE):
            return (x, y, z), (affine @ corners)[:3, i]
    centre = affine[:3, :3] @ (np.array(shape) / 2.0) + affine[:3, 3]
    return (x, y, z), centre - target[:3, :3] @ (np.array([x, y, z]) / 2.0)
