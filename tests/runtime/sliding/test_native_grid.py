"""Test mapping to the native grid tile by tile: equal to mapping the whole grid, for any tiles and grids."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gcis_runtime.grids import samplers
from gcis_runtime.grids.grid_transform import plan_grid
from gcis_runtime.sliding.accumulator import Tile
from gcis_runtime.sliding.blend import logits_to_labels
from gcis_runtime.sliding.label_sink import LabelSink
from gcis_runtime.sliding.native_grid import NativeGridMapper
from gcis_runtime.sliding.plan import WindowPlan
from gcis_runtime.spec import PreprocessSpec, label_dtype
from tests.support.grids import LINEAR


def setting(linear, shape):
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = linear, (-50, 20, 7)
    return plan_grid(shape, affine, PreprocessSpec(orientation="RAS", spacing=(2.0, 2.0, 2.0)))


def blobs(shape, rng):
    """Return three channels of smooth logits: two with a third of positive values, one without any."""
    x, y, z = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    waves = [
        np.sin(x * a + p) + np.sin(y * b + p) + np.sin(z * c) for a, b, c, p in rng.uniform(0.2, 1, (2, 4))
    ]
    return np.stack([waves[0] - 0.4, waves[1] - 0.6, np.full(shape, -1.0)]).astype(np.float32)


def restored(
    logits, transform, shape, *, smooth, axis, cuts, pad=(0, 0, 0), masks=False, probabilities=False
):
    """Map tiles that are split at `cuts` along the slab axis and the next axis."""
    grid = tuple(int(n) for n in logits.shape[1:])
    padded = tuple(n + 2 * p for n, p in zip(grid, pad, strict=True))
    plan = WindowPlan(shape=grid, before=pad, padded=padded, patch_size=padded, axis=axis, starts=())
    around = np.full((len(logits), *padded), 9.0, dtype=np.float32)  # positive: it must not come through
    around[:, *(slice(p, p + n) for p, n in zip(pad, grid, strict=True))] = logits
    sink = LabelSink(
        transform=transform, shape=shape, values=(1, 2, 7), masks=masks, probabilities=probabilities
    )
    restorer = NativeGridMapper(
        plan=plan, transform=transform, values=(1, 2, 7), restore="smooth" if smooth else "nearest", sink=sink
    )
    u = plan.across[0]
    edges = [sorted({0, *(c for c in cuts if c < padded[d]), padded[d]}) for d in (axis, u)]
    for a0, a1 in zip(edges[0], edges[0][1:], strict=False):
        for u0, u1 in zip(edges[1], edges[1][1:], strict=False):
            box = [slice(0, n) for n in padded]
            box[axis], box[u] = slice(a0, a1), slice(u0, u1)
            start = tuple(part.start for part in box)
            buffer = around[:, *box].copy()
            restorer.add(Tile(start=start, logits=buffer))
            buffer[:] = np.nan  # a tile is valid only until the next one
    return sink


def whole(logits, transform, *, smooth):
    """Map the whole grid without tiles, in MONAI's order."""
    if not smooth or transform.to_file is None:
        return transform.invert(logits_to_labels(logits, values=(1, 2, 7)))
    file_logits = np.stack([transform.to_file.linear(m) for m in logits])
    labels = logits_to_labels(file_logits, values=(1, 2, 7))
    return np.flip(labels.transpose(np.argsort(transform.order)), transform.flips)


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("case", LINEAR)
def test_tiles_give_what_the_whole_gives(case, smooth):
    shape, rng = (23, 29, 19), np.random.default_rng(len(case))
    transform = setting(LINEAR[case], shape)
    logits = blobs(transform.shape, rng)
    expected = whole(logits, transform, smooth=smooth)
    assert {0, 1, 2} <= set(np.unique(expected))
    for axis, cuts in ((0, (3, 4, 9)), (1, (5,)), (2, (1, 2, 6, 7))):
        sink = restored(logits, transform, shape, smooth=smooth, axis=axis, cuts=cuts)
        assert sink.labels.dtype == np.uint8
        np.testing.assert_array_equal(sink.labels, expected)
        assert sink.counts() == {v: np.count_nonzero(expected == v) for v in (1, 2, 7)}


@pytest.fixture(autouse=True)
def small_places(monkeypatch):
    """Sample the small tiles of these tests in several boxes, as for real files."""
    monkeypatch.setattr(samplers, "_PLACE_VOXELS", 1500)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(*(st.integers(1, 20) for _ in range(3))),
    spacing=st.tuples(*(st.floats(0.5, 7) for _ in range(3))),
    axis=st.sampled_from([0, 1, 2]),
    cuts=st.lists(st.integers(1, 30), max_size=5),
    pad=st.tuples(*(st.integers(0, 3) for _ in range(3))),
    smooth=st.booleans(),
    seed=st.integers(0, 9),
)
def test_any_tiles_of_any_grid(*, shape, spacing, axis, cuts, pad, smooth, seed):
    transform = setting(np.diag(spacing), shape)
    logits = blobs(transform.shape, np.random.default_rng(seed))
    sink = restored(logits, transform, shape, smooth=smooth, axis=axis, cuts=cuts, pad=pad)
    np.testing.assert_array_equal(sink.labels, whole(logits, transform, smooth=smooth))


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("case", ["flipped", "tilt", "oblique, ties"])
def test_masks_keep_what_the_label_map_hides(case, smooth):
    shape = (23, 29, 19)
    transform = setting(LINEAR[case], shape)
    logits = blobs(transform.shape, np.random.default_rng(5))
    sink = restored(logits, transform, shape, smooth=smooth, axis=2, cuts=(4, 5), masks=True)
    masks = sink.masks()
    assert list(masks) == [1, 2, 7]
    for value, logit in zip((1, 2, 7), logits, strict=True):
        alone = np.full_like(logits, -1.0)
        alone[0] = logit
        np.testing.assert_array_equal(masks[value], whole(alone, transform, smooth=smooth) == 1)
    assert np.any(masks[1] & masks[2])  # the structures overlap: the test can see
    assert not masks[7].any()


def test_smooth_boundaries_are_nearer_to_the_truth():
    """A ball on a 4 mm grid is mapped to 1 mm."""
    shape, centre = (80, 80, 80), 39.5
    transform = plan_grid(shape, np.eye(4), PreprocessSpec(orientation="RAS", spacing=(4.0, 4.0, 4.0)))
    distance = [np.sqrt(sum((g * k - centre) ** 2 for g in np.ogrid[tuple(slice(0, n) for n in s)]))
                for k, s in ((1, shape), (4, transform.shape))]  # fmt: skip
    truth, logits = distance[0] < 22, (22 - distance[1]).astype(np.float32)[None]
    logits = np.concatenate([logits, np.full((2, *transform.shape), -1, np.float32)])
    wrong = [
        np.count_nonzero(
            (restored(logits, transform, shape, smooth=s, axis=0, cuts=(7,)).labels > 0) != truth
        )
        for s in (True, False)
    ]
    assert wrong[0] < wrong[1] / 3


def test_uint16_when_values_need_it():
    assert (label_dtype(0), label_dtype(255), label_dtype(256)) == ("uint8", "uint8", "uint16")
    transform = setting(LINEAR["same grid"], (3, 3, 3))
    assert (
        LabelSink(transform=transform, shape=(3, 3, 3), values=(1, 300), masks=False).labels.dtype
        == np.uint16
    )


@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("case", ["finer", "flipped", "tilt", "oblique, ties", "same grid"])
def test_probabilities_are_the_sigmoid_of_the_restored_logit(case, smooth):
    shape = (23, 29, 19)
    transform = setting(LINEAR[case], shape)
    logits = blobs(transform.shape, np.random.default_rng(5)) * 6
    logits[2] = -50
    assert logits.min() < -6.3 and (logits != 0).all()
    found = [
        restored(logits, transform, shape, smooth=smooth, axis=axis, cuts=cuts, probabilities=True)
        for axis, cuts in ((2, (4, 5)), (0, (3, 9)))
    ]
    for value, logit in zip((1, 2, 7), logits, strict=True):
        if smooth and transform.to_file is not None:
            exact = 255 / (1 + np.exp(-transform.to_file.linear(logit).astype(float)))
            exact = np.flip(exact.transpose(np.argsort(transform.order)), transform.flips)
        else:
            exact = transform.invert(np.rint(255 / (1 + np.exp(-logit.astype(float)))).astype(np.uint8))
        ours = found[0].probabilities()[value]
        assert np.abs(ours - exact.astype(float)).max() < 0.51
        np.testing.assert_array_equal(ours, found[1].probabilities()[value])
    ours = found[0].probabilities()
    assert ours[1].min() == 0 and ours[1].max() >= 250 and len(np.unique(ours[1])) > 100
    assert not ours[7].any()
    none = restored(logits, transform, shape, smooth=smooth, axis=2, cuts=())
    assert none.probabilities() is None and np.array_equal(none.labels, found[0].labels)


def test_where_no_window_lay_the_probability_is_zero():
    transform = setting(LINEAR["same grid"], (4, 4, 4))
    logits = np.zeros((3, 4, 4, 4), np.float32)
    logits[0, 2:] = 0.01
    sink = restored(logits, transform, (4, 4, 4), smooth=True, axis=0, cuts=(), probabilities=True)
    assert not sink.probabilities()[1][:2].any() and (sink.probabilities()[1][2:] == 128).all()
