"""Blending weights of the published evaluation are those of MONAI 0.9.1."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from gcis_runtime.sliding.plan import window_weights
from gcis_runtime.sliding.published import blending_weights, published_weights
from gcis_runtime.spec import WindowSpec

GOLDEN = json.loads((Path(__file__).parents[2] / "data" / "monai_0_9_1_weights.json").read_text())["lines"]


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda g: f"{g['patch_size']} {g['sigma_scale']}")
def test_weights_are_those_of_monai_0_9_1(golden):
    """The golden numbers are the three lines through the centre and the diagonal."""
    spec = WindowSpec(patch_size=tuple(golden["patch_size"]), sigma_scale=golden["sigma_scale"])
    weights = published_weights(spec)
    x, y, z = (n // 2 for n in spec.patch_size)
    assert weights.shape == spec.patch_size and weights.dtype == np.float32
    np.testing.assert_allclose(weights[:, y, z], golden["x"], rtol=3e-4)
    np.testing.assert_allclose(weights[x, :, z], golden["y"], rtol=3e-4)
    np.testing.assert_allclose(weights[x, y, :], golden["z"], rtol=3e-4)
    diagonal = np.arange(64)
    np.testing.assert_allclose(weights[diagonal, diagonal, diagonal], golden["diagonal"], rtol=3e-4)
    assert weights.astype(np.float64).sum() == pytest.approx(golden["sum"], rel=1e-5)


def test_the_largest_weight_is_half_a_voxel_beside_the_centre():
    spec = WindowSpec(patch_size=(64, 64, 96))
    weights = published_weights(spec)
    assert weights[32, 32, 48] == 1 and weights[31, 32, 48] < 1
    assert weights.min() == np.float32(1e-3)
    assert np.abs(weights - window_weights(spec)).max() > 0.01


def test_constant_weights_and_other_ways_back_keep_the_weights_of_current_monai():
    constant = WindowSpec(patch_size=(64, 64, 64), blend="constant")
    assert (published_weights(constant) == 1).all()
    spec = WindowSpec(patch_size=(64, 64, 64))
    for restore in ("smooth", "nearest"):
        np.testing.assert_array_equal(blending_weights(spec, restore), window_weights(spec))
    np.testing.assert_array_equal(blending_weights(spec, "published"), published_weights(spec))
