"""Test that window positions and weights equal those of MONAI."""

from __future__ import annotations

import numpy as np
import pytest
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.inferers.utils import _get_scan_interval

from gcis_runtime.errors import ImageError
from gcis_runtime.sliding.plan import pad_to_plan, plan_windows, window_weights
from gcis_runtime.spec import WindowSpec


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.625, 0.9, 0.99])
@pytest.mark.parametrize(
    "shape", [(64, 64, 64), (65, 200, 127), (300, 64, 96), (10, 128, 64), (192, 193, 191)]
)
def test_positions_are_those_of_monai(shape, overlap):
    if overlap == 0.99 and shape[0] > 65:
        shape = tuple(min(n, 70) for n in shape)  # a step of one voxel: a million windows otherwise
    spec = WindowSpec(patch_size=(64, 64, 96), overlap=overlap)
    padded = tuple(max(a, b) for a, b in zip(shape, spec.patch_size, strict=True))
    interval = _get_scan_interval(padded, spec.patch_size, 3, (overlap,) * 3)
    expected = [
        tuple(s.start for s in window) for window in dense_patch_slices(padded, spec.patch_size, interval)
    ]
    plan = plan_windows(shape, spec, axis=0)
    assert list(plan.starts) == expected  # MONAI's own order is slab order along the first axis
    for axis in (1, 2, None):
        other = plan_windows(shape, spec, axis=axis)
        assert sorted(other.starts) == sorted(expected)
        along = [start[other.axis] for start in other.starts]
        assert along == sorted(along)


@pytest.mark.parametrize("sigma_scale", [0.125, 0.05, 0.5])
@pytest.mark.parametrize("blend", ["gaussian", "constant"])
def test_weights_are_those_of_monai(blend, sigma_scale):
    spec = WindowSpec(patch_size=(64, 96, 128), blend=blend, sigma_scale=sigma_scale)
    expected = compute_importance_map(spec.patch_size, mode=blend, sigma_scale=sigma_scale).numpy()
    np.testing.assert_allclose(window_weights(spec), expected, rtol=2e-6, atol=0)
    assert window_weights(spec).min() >= 1e-3 * (1 - 1e-6)


def test_small_volumes_are_padded_evenly_with_the_padding_value():
    plan = plan_windows((10, 80, 63), WindowSpec(patch_size=(64, 64, 64)))
    assert (plan.before, plan.padded) == ((27, 0, 0), (64, 80, 64))
    out = pad_to_plan(np.ones((10, 80, 63), dtype=np.float32), plan, 0.25)
    assert out[27:37, :, :63].min() == 1.0
    assert out[:27].max() == out[37:].max() == out[:, :, 63].max() == 0.25


def test_an_overlap_that_plans_windows_by_the_million_is_refused():
    spec = WindowSpec(patch_size=(64, 64, 64), overlap=0.99)
    with pytest.raises(ImageError, match=r"too many windows.*overlap 0.99.*less overlap"):
        plan_windows((300, 300, 300), spec)
    assert len(plan_windows((80, 80, 80), spec).starts) == 17**3
