"""Transform between the grid of a file and the grid of the network, and its exact inverse for labels.

The steps are those of MONAI's `Orientationd` and `Spacingd(diagonal=False)`, which training uses: flip and
permute the axes to axis codes, then resample to a voxel size without rotation. Straightening is not part of
them: it also turns the grid to the axes of the patient.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray

from gcis_runtime.grids.box import Box
from gcis_runtime.grids.resample import GridMap, matrix_product
from gcis_runtime.grids.straight import STRAIGHT_DEGREES, oblique_degrees, straight_grid
from gcis_runtime.spec import PreprocessSpec, Shape3, Triple

_TOLERANCE = 1e-3
"""MONAI's AFFINE_TOL: spacings (mm) and affines that differ by less count as equal."""


@dataclass(frozen=True, kw_only=True, eq=False)
class GridTransform:
    """Transform from the grid of a file to the grid of the network. Made by `plan_grid`.

    Attributes:
        flips: File axes that are reversed.
        order: File axis of each network axis, after the flips.
        to_network: Resampling from the reoriented file grid; None if the grids are the same.
        to_file: Resampling back to the reoriented file grid; None if the grids are the same.
        shape: Shape of the network grid (X, Y, Z).
        affine: (4, 4), from network voxel index to RAS+ mm.
        straightened: Angle in degrees by which the axes of the file are off those of the network grid, which
            are the patient's; None if both have the same axes.
    """

    flips: tuple[int, ...]
    order: tuple[int, ...]
    to_network: GridMap | None
    to_file: GridMap | None
    shape: Shape3
    affine: NDArray[np.float64]
    straightened: float | None = None

    def forward(self, array: NDArray[Any], box: Box | None = None) -> NDArray[Any]:
        """Resample an image to the network grid.

        Args:
            array: (X, Y, Z) on the file grid, int16 or float32.
            box: Part of the network grid to compute; None computes all of it. Values do not depend on the
                box.

        Returns:
            (X, Y, Z) of the box: float32, or a view of `array` if the grids are the same.
        """
        array = self.oriented(array)
        if self.to_network is None:
            return array if box is None else array[box]
        return self.to_network.linear(array, box)

    def oriented(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return a view of an array on the file grid, flipped and permuted to the axes of the network."""
        return np.flip(array, self.flips).transpose(self.order)

    def around(self, low: ArrayLike, high: ArrayLike) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the first and last network voxels that interpolation reads for a part of the file grid.

        Both are moved outwards by one voxel, so that rounding does not matter.

        Args:
            low: (3,) smallest coordinates of the part, in voxels of the reoriented file grid.
            high: (3,) largest coordinates of the part.

        Returns:
            (3,) first and (3,) last voxel index, clipped to the network grid.
        """
        matrix = np.eye(4) if self.to_file is None else self.to_file.matrix
        corners = np.stack(np.meshgrid(*np.stack([low, high], axis=1), indexing="ij"), axis=-1).reshape(-1, 3)
        where = corners @ matrix[:3, :3].T + matrix[:3, 3]
        top = np.array(self.shape) - 1
        first = np.clip(np.floor(where.min(axis=0)) - 1, 0, top)
        last = np.clip(np.ceil(where.max(axis=0)) + 1, 0, top)
        return first.astype(np.int64), last.astype(np.int64)

    def invert(self, labels: NDArray[Any]) -> NDArray[Any]:
        """Resample labels from the network grid to the file grid, with nearest-neighbour interpolation.

        Args:
            labels: (X, Y, Z) on the network grid.

        Returns:
            (X, Y, Z) on the file grid, same type, Fortran-contiguous.
        """
        if self.to_file is not None:
            labels = self.to_file.nearest(labels)
        labels = np.flip(labels.transpose(np.argsort(self.order)), self.flips)
        return np.asfortranarray(labels)  # the memory order of NIfTI: writing needs no copy


def plan_grid(
    shape: Shape3, affine: NDArray[np.float64], spec: PreprocessSpec, *, straighten: bool = False
) -> GridTransform:
    """Return the transform from the grid of a file to the orientation and spacing of the network input.

    Args:
        shape: Shape of the file grid (X, Y, Z).
        affine: (4, 4), from file voxel index to RAS+ mm, invertible.
        spec: Orientation and spacing of the network input.
        straighten: Place the network grid along the axes of the patient if those of the file are oblique, by
            `STRAIGHT_DEGREES` or more. Voxels beyond the image get the lower end of the intensity window.
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
    degrees = oblique_degrees(affine) if straighten else 0.0
    straightened = round(degrees, 1) if degrees >= STRAIGHT_DEGREES else None
    if straightened is not None:
        to_network: GridMap | None = _straightening(shape, affine, spec)
    else:
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
        straightened=straightened,
    )


def _straightening(shape: Shape3, affine: NDArray[np.float64], spec: PreprocessSpec) -> GridMap:
    """Return the resampling to a grid along the axes of the patient."""
    shape_out, target = straight_grid(shape, affine, spec.spacing)
    return GridMap(
        matrix=_solve(affine, target), shape_in=shape, shape_out=shape_out, beyond=spec.intensity_window[0]
    )


def _resampling(shape: Shape3, affine: NDArray[np.float64], spacing: Triple) -> GridMap | None:
    """Return the resampling to `spacing`, or None if the grid already has it."""
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
    """Return an affine's rotation with another spacing, without shear or translation (`zoom_affine`)."""
    linear = affine[:3, :3]
    zoom = np.linalg.cholesky(linear.T @ linear).T
    out = np.eye(4)
    out[:3, :3] = linear @ np.linalg.inv(zoom) @ np.diag(np.sign(np.diag(zoom)) * spacing)
    return out


def _extent(
    shape: Shape3, affine: NDArray[np.float64], target: NDArray[np.float64]
) -> tuple[Shape3, NDArray[np.float64]]:
    """Return shape and origin (mm) of the target grid (MONAI `compute_shape_offset`).

    The centre of the first voxel does not move. If no corner of the box is smallest along every axis (shear,
    or header noise above 1e-8 voxel), the grid is centred instead, with MONAI's `shape / 2` as the centre.
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
