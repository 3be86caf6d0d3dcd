"""Streaming blend: constant in, constant out; equal to the whole-volume blend bit for bit."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference

from gcis_runtime.blend import WindowCount, blend_labels, blend_slabs, margins_to_labels, reuse_constant
from gcis_runtime.spec import WindowSpec
from gcis_runtime.windows import pad_to_plan, plan_windows, window_weights


def network(channels):
    """A predictor whose answer depends on the position in the window, so that blending matters."""
    x, y, z = np.ogrid[0:64, 0:64, 0:64]
    ramp = ((x + 2 * y + 3 * z) % 17).astype(np.float32) / 17

    def predict(window):
        return np.stack([window[0, 0] * (c + 1) - ramp * (0.3 + 0.2 * c) for c in range(channels)])[None]

    return predict


def whole_blend(array, plan, weights, predict, channels):
    total = np.zeros((channels, *plan.padded), dtype=np.float32)
    norm = np.zeros(plan.padded, dtype=np.float32)
    for start in plan.starts:
        index = tuple(slice(s, s + r) for s, r in zip(start, plan.roi, strict=True))
        margins = predict(np.ascontiguousarray(array[index])[None, None])[0]
        for c in range(channels):
            total[(c, *index)] += margins[c] * weights
        norm[index] += weights
    total /= norm
    return total


def streamed(array, plan, weights, predict, channels):
    out = np.full((channels, *plan.padded), np.nan, dtype=np.float32)
    view = np.moveaxis(out, plan.axis + 1, 1)
    filled = 0
    for first, slab in blend_slabs(array, plan, weights, predict):
        assert first == filled
        view[:, first : first + slab.shape[1]] = slab
        filled += slab.shape[1]
    assert filled == plan.padded[plan.axis]
    return out


@pytest.mark.parametrize(
    ("shape", "overlap", "axis", "channels", "blend"),
    [
        *itertools.product([(100, 70, 64)], [0.0, 0.5, 0.7], [0, 1, 2], [2], ["gaussian"]),
        ((20, 90, 70), 0.25, None, 1, "gaussian"),
        ((64, 64, 150), 0.5, None, 3, "constant"),
        ((5, 6, 7), 0.5, None, 2, "gaussian"),
    ],
)
def test_streaming_equals_the_whole_volume_bit_for_bit(shape, overlap, axis, channels, blend):
    spec = WindowSpec(roi=(64, 64, 64), overlap=overlap, blend=blend)
    plan = plan_windows(shape, spec, axis=axis)
    array = pad_to_plan(np.random.default_rng(0).random(shape, dtype=np.float32), plan, 0.0)
    weights, predict = window_weights(spec), network(channels)
    whole = whole_blend(array, plan, weights, predict, channels)
    np.testing.assert_array_equal(streamed(array, plan, weights, predict, channels), whole)

    values = tuple(range(3, 3 + channels))
    labels = blend_labels(array, plan, weights, predict, channels=tuple(range(channels)), values=values)
    inner = tuple(slice(b, b + n) for b, n in zip(plan.before, plan.shape, strict=True))
    best = whole.argmax(axis=0)
    expected = np.where(whole.max(axis=0) > 0, np.array(values)[best], 0)[inner]
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, expected)


def test_constant_in_constant_out():
    spec = WindowSpec(roi=(64, 64, 64), overlap=0.6)
    plan = plan_windows((130, 70, 64), spec)
    answer = np.full((1, 1, 64, 64, 64), 0.7, dtype=np.float32)
    slabs = blend_slabs(np.zeros(plan.padded, np.float32), plan, window_weights(spec), lambda _: answer)
    for _, slab in slabs:
        np.testing.assert_allclose(slab, 0.7, rtol=1e-6)


@pytest.mark.parametrize("shape", [(100, 70, 64), (30, 90, 50)])
def test_blend_is_that_of_monai(shape):
    spec = WindowSpec(roi=(64, 64, 64), overlap=0.5)
    array = np.random.default_rng(1).random(shape, dtype=np.float32)
    predict = network(2)
    expected = sliding_window_inference(
        torch.from_numpy(array)[None, None], (64, 64, 64), 1, lambda w: torch.from_numpy(predict(w.numpy())),
        overlap=0.5, mode="gaussian", sigma_scale=0.125,
    )[0].numpy()  # fmt: skip
    plan = plan_windows(shape, spec, axis=0)
    out = streamed(pad_to_plan(array, plan, 0.0), plan, window_weights(spec), predict, 2)
    inner = tuple(slice(b, b + n) for b, n in zip(plan.before, plan.shape, strict=True))
    np.testing.assert_allclose(out[(slice(None), *inner)], expected, atol=1e-5)


def test_a_constant_window_is_computed_once_and_a_nearly_constant_one_is_not():
    calls = []

    def predict(window):
        calls.append(window.copy())
        return window * 2

    count = WindowCount()
    run = reuse_constant(predict, count)
    flat, other = np.zeros((1, 1, 64, 64, 64), np.float32), np.ones((1, 1, 64, 64, 64), np.float32)
    dented = flat.copy()
    dented[0, 0, 31, 7, 3] = 1.0
    for window in (flat, flat.copy(), other, dented, dented, flat):
        np.testing.assert_array_equal(run(window), window * 2)
    assert len(calls) == 4
    assert (count.total, count.reused) == (6, 2)


def test_the_largest_positive_margin_wins_and_zero_is_background():
    margins = np.array([[-1.0, 0.0, 0.5, 2.0, 1.0], [-2.0, -1.0, 0.7, 1.0, 1.0]], dtype=np.float32)
    assert margins_to_labels(margins, channels=(0, 1), values=(5, 9)).tolist() == [0, 0, 9, 5, 5]
    assert margins_to_labels(margins, channels=(1,), values=(300,)).tolist() == [0, 0, 300, 300, 300]
