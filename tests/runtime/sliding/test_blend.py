"""Test streaming blending: equal to blending the whole volume at once, bit for bit."""

from __future__ import annotations

import dataclasses
import functools
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from monai.inferers import sliding_window_inference

from gcis_runtime.sliding import accumulator, carry_over
from gcis_runtime.sliding.blend import WindowCount, blend_tiles, logits_to_labels, reuse_constant
from gcis_runtime.sliding.plan import WindowReader, pad_to_plan, plan_windows, window_weights
from gcis_runtime.sliding.schedule import make_schedule
from gcis_runtime.spec import WindowSpec
from gcis_runtime.system.worker_threads import Workers

ROI = (8, 10, 6)
"""Smaller than `WindowSpec` allows, to save time: the tested properties do not depend on the size."""


@dataclasses.dataclass
class _Spec:
    patch_size: tuple[int, int, int]
    overlap: float
    blend: str = "gaussian"
    sigma_scale: float = 0.125


def network(channels, roi):
    """Return a predictor whose output depends on the position in the window, so that blending matters."""
    x, y, z = np.ogrid[0 : roi[0], 0 : roi[1], 0 : roi[2]]
    ramp = ((x + 2 * y + 3 * z) % 17).astype(np.float32) / 17

    def predict(window):
        return np.stack([window[0, 0] * (c + 1) - ramp * (0.3 + 0.2 * c) for c in range(channels)])[None]

    return predict


def whole_blend(padded, plan, weights, predict, channels):
    total = np.zeros((channels, *plan.padded), dtype=np.float32)
    norm = np.zeros(plan.padded, dtype=np.float32)
    for start in plan.starts:
        index = tuple(slice(s, s + r) for s, r in zip(start, plan.patch_size, strict=True))
        logits = predict(np.ascontiguousarray(padded[index])[None, None])[0]
        for c in range(channels):
            total[(c, *index)] += logits[c] * weights
        norm[index] += weights
    np.divide(total, norm, out=total, where=norm > 0)
    return total


def no_window(tile):
    return tile.logits.strides == (0, 0, 0, 0)


@functools.cache
def shared_by(threads):
    return Workers(pool=ThreadPoolExecutor(threads), count=threads)


def streamed(array, plan, weights, predict, channels, *, padding_value=0.0, threads=1, on_disk=False):
    """Assemble the tiles of `array`; check that they cover the padded grid exactly once, in order."""
    out = np.full((channels, *plan.padded), np.nan, dtype=np.float32)
    schedule = make_schedule(plan)
    shared = shared_by(threads)
    reader = WindowReader(lambda box: array[box], plan, padding_value=padding_value, workers=shared)
    last = (-1, -1)
    everything = tuple(range(channels))
    for tile in blend_tiles(
        schedule, reader, weights, predict, channels=everything, workers=shared, on_disk=on_disk
    ):
        at = tile.start[plan.axis], tile.start[plan.across[0]]
        assert at > last
        last = at
        index = tuple(slice(s, s + n) for s, n in zip(tile.start, tile.logits.shape[1:], strict=True))
        assert all(
            n <= m for n, m in zip(tile.logits.shape[1:], schedule.tile_shape, strict=True)
        ) or no_window(tile)
        assert np.isnan(out[(slice(None), *index)]).all()
        out[(slice(None), *index)] = tile.logits
    assert not np.isnan(out).any()
    return out


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Split the addition of the small windows of these tests into several parts, as for real windows."""
    monkeypatch.setattr(accumulator, "_CACHED_VOXELS", 130)
    monkeypatch.setattr(carry_over, "STAGED_BYTES", 4000)


@settings(max_examples=160, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(*(st.integers(1, 31) for _ in range(3))),
    overlap=st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.6, 0.75, 0.9]),
    axis=st.sampled_from([None, 0, 1, 2]),
    channels=st.integers(1, 4),
    kind=st.sampled_from(["gaussian", "constant"]),
    threads=st.sampled_from([1, 2, 3]),
    on_disk=st.booleans(),
)
def test_streaming_equals_the_whole_volume_blend_bit_for_bit(
    *, shape, overlap, axis, channels, kind, threads, on_disk
):
    spec = _Spec(ROI, overlap, kind)
    plan, weights, predict = (
        plan_windows(shape, spec, axis=axis),
        window_weights(spec),
        network(channels, ROI),
    )
    array = np.random.default_rng(0).random(shape, dtype=np.float32)
    expected = whole_blend(pad_to_plan(array, plan, 0.5), plan, weights, predict, channels)
    found = streamed(
        array, plan, weights, predict, channels, padding_value=0.5, threads=threads, on_disk=on_disk
    )
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=160, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(*(st.integers(5, 40) for _ in range(3))),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.7]),
    axis=st.sampled_from([0, 1, 2]),
    share=st.sampled_from([0.0, 0.05, 0.3, 0.8]),
    seed=st.integers(0, 99),
    on_disk=st.booleans(),
)
def test_windows_may_be_left_out_of_a_plan(*, shape, overlap, axis, share, seed, on_disk):
    spec, rng = _Spec(ROI, overlap), np.random.default_rng(seed)
    full = plan_windows(shape, spec, axis=axis)
    plan = dataclasses.replace(full, starts=tuple(s for s in full.starts if rng.random() < share))
    array, weights, predict = rng.random(shape, dtype=np.float32), window_weights(spec), network(2, ROI)
    expected = whole_blend(pad_to_plan(array, plan, 0.0), plan, weights, predict, 2)
    np.testing.assert_array_equal(streamed(array, plan, weights, predict, 2, on_disk=on_disk), expected)


def test_channels_may_be_left_out_and_reordered():
    spec = _Spec(ROI, 0.5)
    plan, weights, predict = plan_windows((20, 20, 20), spec), window_weights(spec), network(4, ROI)
    array = np.random.default_rng(0).random((20, 20, 20), dtype=np.float32)
    expected = whole_blend(array, plan, weights, predict, 4)
    reader = WindowReader(lambda box: array[box], plan, padding_value=0.0)
    for tile in blend_tiles(
        make_schedule(plan), reader, weights, predict, channels=(3, 1), workers=shared_by(1)
    ):
        index = tuple(slice(s, s + n) for s, n in zip(tile.start, tile.logits.shape[1:], strict=True))
        np.testing.assert_array_equal(tile.logits, expected[[3, 1]][(slice(None), *index)])


def test_constant_in_constant_out():
    spec = WindowSpec(patch_size=(64, 64, 64), overlap=0.6)
    plan = plan_windows((130, 70, 64), spec)
    answer = np.full((1, 1, 64, 64, 64), 0.7, dtype=np.float32)
    reader = WindowReader(np.zeros(plan.padded, np.float32).__getitem__, plan, padding_value=0.0)
    tiles = blend_tiles(
        make_schedule(plan),
        reader,
        window_weights(spec),
        lambda _: answer,
        channels=(0,),
        workers=shared_by(1),
    )
    for tile in tiles:
        np.testing.assert_allclose(tile.logits, 0.7, rtol=1e-6)


@pytest.mark.parametrize("shape", [(100, 70, 64), (30, 90, 50)])
def test_blend_is_that_of_monai(shape):
    spec = WindowSpec(patch_size=(64, 64, 64), overlap=0.5)
    array = np.random.default_rng(1).random(shape, dtype=np.float32)
    predict = network(2, spec.patch_size)
    expected = sliding_window_inference(
        torch.from_numpy(array)[None, None], (64, 64, 64), 1, lambda w: torch.from_numpy(predict(w.numpy())),
        overlap=0.5, mode="gaussian", sigma_scale=0.125,
    )[0].numpy()  # fmt: skip
    plan = plan_windows(shape, spec, axis=0)
    out = streamed(array, plan, window_weights(spec), predict, 2)
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


def test_the_largest_positive_logit_wins_and_zero_is_background():
    logits = np.array([[-1.0, 0.0, 0.5, 2.0, 1.0], [-2.0, -1.0, 0.7, 1.0, 1.0]], dtype=np.float32)
    assert logits_to_labels(logits, values=(5, 9)).tolist() == [0, 0, 9, 5, 5]
    assert logits_to_labels(logits[1:], values=(300,)).tolist() == [0, 0, 300, 300, 300]
