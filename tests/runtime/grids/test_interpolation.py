"""Test that interpolation along three axes equals the definition bit for bit, in every memory layout."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gcis_runtime.grids import interpolation
from gcis_runtime.grids.interpolation import lerp_axes, lerp_axis


def defined(array, positions, order):
    """Interpolate axis by axis with float32 rounding after each step."""
    for axis in order:
        low = np.floor(positions[axis]).astype(int)
        high = np.minimum(low + 1, array.shape[axis] - 1)
        weight = (positions[axis] - low).astype(np.float32)
        before, after = (np.moveaxis(array, axis, -1)[..., i].astype(np.float32) for i in (low, high))
        array = np.moveaxis((after - before) * weight + before, -1, axis)
    return array


def layouts(values):
    """Return arrays of equal values with other memory: C and Fortran order, flipped, permuted and strided."""
    yield values
    yield np.asfortranarray(values)
    yield np.flip(np.asfortranarray(np.flip(values)))
    yield np.flip(np.ascontiguousarray(np.flip(values, (0, 1))), (0, 1))
    yield np.ascontiguousarray(values.transpose(1, 0, 2)).transpose(1, 0, 2)
    yield np.repeat(values, 2, axis=1)[:, ::2]


SPREAD = np.linspace(0.2, 10.7, 23), np.linspace(3.0, 12.0, 5), np.linspace(0.0, 8.0, 9)
"""Finer, coarser, and the centres of consecutive voxels."""
LAST = np.array([3.0, 3.0, 4.5]), np.array([12.0]), np.array([8.0, 8.0])
"""Repeated and single voxels, up to the last one."""


@pytest.mark.parametrize("cached", [1, 300, 1 << 16])
@pytest.mark.parametrize("dtype", [np.int16, np.float32])
@pytest.mark.parametrize("positions", [SPREAD, LAST, (SPREAD[2] + 1, SPREAD[1], SPREAD[0] * 0.7)])
def test_any_order_and_layout(positions, dtype, cached, monkeypatch):
    monkeypatch.setattr(interpolation, "_CACHED_VOXELS", cached)
    values = np.random.default_rng(0).integers(-32768, 32768, (11, 13, 9)).astype(dtype)
    for order, array in itertools.product(itertools.permutations(range(3)), layouts(values)):
        before = array.copy()
        found = lerp_axes(array, positions, order)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, defined(values, positions, order))
        np.testing.assert_array_equal(array, before)
        for axis in range(3):
            expected = defined(values, positions, (axis,))
            np.testing.assert_array_equal(lerp_axis(array, positions[axis], axis), expected)
