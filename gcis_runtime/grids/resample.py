"""Resample between voxel grids with NumPy: linear interpolation for images, nearest neighbour for labels.

Voxel centres lie at integer indices, and values beyond the border repeat the border voxel. This is the
convention of MONAI's `Spacing` with `align_corners=False` and `padding_mode="border"`: its normalised
coordinates refer to voxel edges, which places voxel centres at integer indices.

If two grids have the same directions, the index map is diagonal and resampling is separable: two gathers and
one linear interpolation per axis. A sheared grid (CT gantry tilt) takes the general path, because MONAI
removes shear.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.grids.box import Box, box_shape, whole
from gcis_runtime.grids.interpolation import lerp_axes, trilinear
from gcis_runtime.spec import Shape3

_SHEAR_TOLERANCE = 1e-3
"""Largest displacement in voxels by off-diagonal terms for which resampling is separable."""
_CHUNK_VOXELS = 1 << 22


@dataclass(frozen=True, kw_only=True, eq=False)
class GridMap:
    """Map from the voxel indices of an output grid to those of an input grid.

    Attributes:
        matrix: (4, 4) float64, from output voxel index to input voxel index.
        shape_in: Shape of the input grid (X, Y, Z).
        shape_out: Shape of the output grid (X, Y, Z).
        beyond: Value of `linear` for samples more than half a voxel beyond the border voxels; None repeats
            the border voxels.
    """

    matrix: NDArray[np.float64]
    shape_in: Shape3
    shape_out: Shape3
    beyond: float | None = None

    @property
    def separable(self) -> bool:
        """Whether off-diagonal terms move every sample by at most a thousandth of a voxel."""
        return bool(self._reach().max() <= _SHEAR_TOLERANCE)

    def _reach(self) -> NDArray[np.float64]:
        """Return the largest displacement along each axis by off-diagonal terms, in input voxels."""
        linear = np.abs(self.matrix[:3, :3])
        return np.asarray((linear - np.diag(np.diag(linear))) @ (np.array(self.shape_out) - 1.0))

    def linear(self, array: NDArray[Any], box: Box | None = None) -> NDArray[np.float32]:
        """Resample an image linearly.

        Args:
            array: (X, Y, Z) of `shape_in`, int16 or float32.
            box: Part of the output to compute; None computes all of it. Values do not depend on the box.

        Returns:
            (X, Y, Z) of the box, float32.
        """
        box = whole(self.shape_out) if box is None else box
        if self.beyond is not None or not self.separable:
            return _general_linear(array, self, box)
        positions = [axis_coordinates(self, axis)[part] for axis, part in enumerate(box)]
        return lerp_axes(array, positions, self.cheapest_order())

    def cheapest_order(self) -> list[int]:
        """Return the axes ordered by increasing ratio of output to input size.

        Interpolating the axis that shrinks most first leaves less work for the others. Among equal ratios the
        last axis comes first: files have X fastest, and gathers along X are the slowest.
        """
        growth = [round(n / m, 3) for n, m in zip(self.shape_out, self.shape_in, strict=True)]
        return sorted(range(3), key=lambda axis: (growth[axis], -axis))

    def nearest(self, labels: NDArray[Any]) -> NDArray[Any]:
        """Resample labels to the nearest voxel centre; ties go to the even index (see `axis_coordinates`).

        Args:
            labels: (X, Y, Z) of `shape_in`.

        Returns:
            (X, Y, Z) of `shape_out`, same type.
        """
        if not self.separable or self.noise_breaks_ties():
            return _general_nearest(labels, self)
        out = labels
        for axis in sorted(range(3), key=lambda a: self.shape_out[a] / self.shape_in[a]):
            index = np.rint(axis_coordinates(self, axis)).astype(np.intp)
            if not np.array_equal(index, np.arange(self.shape_in[axis])):
                out = out.take(index, axis=axis)
        return out

    def noise_breaks_ties(self) -> bool:
        """Return whether rounding noise off the diagonal decides samples halfway between two voxels.

        The noise of an oblique grid is about 1e-17, or 1e-8 if a NIfTI header stores directions as float32.
        In MONAI it breaks ties voxel by voxel, and only the slower general path reproduces that.
        """
        theta = unit_matrix(self)[:3, :3]
        if not np.any(theta - np.diag(np.diag(theta))):
            return False
        return any(
            bool((np.abs(axis_coordinates(self, axis) % 1.0 - 0.5) < reach + 1e-9).any())
            for axis, reach in enumerate(self._reach())
        )


def axis_coordinates(grid: GridMap, axis: int) -> NDArray[np.float64]:
    """Return the input coordinate of each output index along one axis, clipped to the input.

    The arithmetic follows `torch.nn.functional.affine_grid` and `grid_sample` step by step in float64
    (normalise to [-1, 1], scale, denormalise) instead of the shorter `a * i + b`. With a spacing ratio such
    as 1:2, every second label sample lies exactly between two voxels, and the last bit of this arithmetic
    decides before "round half to even" does. Following it keeps those voxels equal to MONAI's inverse.
    """
    theta = unit_matrix(grid)
    return _to_voxels(
        unit_axis(grid.shape_out[axis]) * theta[axis, axis] + theta[axis, 3], grid.shape_in[axis]
    )


def matrix_product(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Multiply two (4, 4) matrices, with each sum taken from first to last and rounded at every step.

    PyTorch multiplies small matrices in this order; BLAS does not. The difference of 1e-17 decides ties of
    oblique grids.
    """
    out = np.zeros((4, 4))
    for k in range(4):
        out += a[:, k, None] * b[None, k]
    return out


def unit_matrix(grid: GridMap) -> NDArray[np.float64]:
    """Return the map in normalised coordinates: edges at -1 and 1 (MONAI `to_norm_affine`)."""

    def to_unit(shape: Shape3) -> NDArray[np.float64]:
        size = np.array(shape, dtype=np.float64)
        out = np.diag(np.append(2.0 / size, 1.0))
        out[:3, 3] = 1.0 / size - 1.0
        return out

    return matrix_product(
        matrix_product(to_unit(grid.shape_in), grid.matrix), _inverse(to_unit(grid.shape_out))
    )


def _inverse(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.linalg.inv(matrix), dtype=np.float64)


def unit_axis(count: int) -> NDArray[np.float64]:
    """Return the voxel centres of an axis in normalised coordinates: its edges are -1 and 1."""
    return _linspace(count) * (count - 1) / count


def _to_voxels(unit: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Convert normalised coordinates to voxel indices, clipped to the axis."""
    return np.clip(((unit + 1.0) * count - 1.0) / 2.0, 0.0, count - 1.0)


def _linspace(count: int) -> NDArray[np.float64]:
    """Return `torch.linspace(-1, 1, count)` bit for bit.

    PyTorch computes from both ends with a fused multiply-add, which rounds each value once. The product is
    exact in the 80-bit floats of x86. Where `longdouble` is no wider than a double, the last bit may differ,
    which affects only labels of voxels exactly between two others.
    """
    if count == 1:
        return np.array([-1.0])
    step = np.longdouble(2.0 / (count - 1))
    index = np.arange(count)
    ends = np.where(index < count // 2, step * index - 1, 1 - step * (count - 1 - index))
    return ends.astype(np.float64)


def general_coordinates(grid: GridMap, box: Box) -> list[NDArray[np.float64]]:
    """Return the clipped input coordinates of an output box along X, Y, Z: three arrays of its shape."""
    theta = unit_matrix(grid)
    x, y, z = np.ix_(*(unit_axis(n)[part] for n, part in zip(grid.shape_out, box, strict=True)))
    # Summed from the last axis to the first, as in PyTorch.
    return [
        _to_voxels(z * t[2] + y * t[1] + x * t[0] + t[3], n)
        for t, n in zip(theta[:3], grid.shape_in, strict=True)
    ]


def _row_chunks(box: Box) -> list[Box]:
    """Split a box along X into boxes of about a quarter of `_CHUNK_VOXELS`: coordinates are float64."""
    x, y, z = box
    rows = max(1, _CHUNK_VOXELS // (4 * max(1, (y.stop - y.start) * (z.stop - z.start))))
    return [(slice(s, min(s + rows, x.stop)), y, z) for s in range(x.start, x.stop, rows)]


def _general_linear(array: NDArray[Any], grid: GridMap, box: Box) -> NDArray[np.float32]:
    """Resample linearly at arbitrary coordinates."""
    chunks = []
    for part in _row_chunks(box):
        values = trilinear(array, general_coordinates(grid, part))
        if grid.beyond is not None:
            values[_beyond(grid, part)] = grid.beyond
        chunks.append(values)
    return np.concatenate(chunks)


def _beyond(grid: GridMap, box: Box) -> NDArray[np.bool_]:
    """Return where samples of an output box lie more than half a voxel beyond the border voxels."""
    x, y, z = np.ix_(*(np.arange(part.start, part.stop, dtype=np.float64) for part in box))
    out = np.zeros(box_shape(box), dtype=np.bool_)
    for row, n in zip(grid.matrix[:3], grid.shape_in, strict=True):
        position = x * row[0] + y * row[1] + z * row[2] + row[3]
        out |= position < -0.5
        out |= position > n - 0.5
    return out


def _general_nearest(labels: NDArray[Any], grid: GridMap) -> NDArray[Any]:
    """Resample with nearest neighbour at arbitrary coordinates."""
    out = np.empty(grid.shape_out, dtype=labels.dtype)
    for part in _row_chunks(whole(grid.shape_out)):
        out[part] = labels[tuple(np.rint(c).astype(np.intp) for c in general_coordinates(grid, part))]
    return out
