"""Test the foreground rule: window positions and labels equal those of MONAI's cropping pipeline."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.data.utils import dense_patch_slices
from monai.inferers import sliding_window_inference
from monai.transforms import Compose, CropForegroundd, Invertd, Orientationd, ScaleIntensityRanged, Spacingd
from scipy.spatial.transform import Rotation

from gcis_runtime import Segmenter, Volume
from gcis_runtime.bundles.describe import describe
from gcis_runtime.bundles.manifest import decode, encode
from gcis_runtime.cli import run as cli
from gcis_runtime.errors import BundleError
from gcis_runtime.grids.box import positive_box
from gcis_runtime.grids.preprocess import preprocess
from gcis_runtime.images.nifti import write_volume
from gcis_runtime.pipeline import forecast
from gcis_runtime.pipeline import run_pass as passes
from gcis_runtime.pipeline.loaded_engine import LoadedEngine
from gcis_runtime.pipeline.options import SegmentOptions
from gcis_runtime.regions.coarse import coarse_spec
from gcis_runtime.runs import run_images
from gcis_runtime.runs.options import RunOptions
from gcis_runtime.runs.resume import identity_of, run_key
from gcis_runtime.sliding import foreground_crop as foreground
from gcis_runtime.sliding.cuda.kernels import Kernels
from gcis_runtime.sliding.cuda.labeller import GpuLabeller
from gcis_runtime.sliding.foreground_crop import foreground_box, place_windows
from gcis_runtime.sliding.label_sink import LabelSink
from gcis_runtime.sliding.labeller import STAGES, CpuLabeller, LabelTask
from gcis_runtime.sliding.plan import (
    WindowReader,
    pad_to_plan,
    plan_windows,
    weights_within,
    window_weights,
    with_slab_axis,
)
from gcis_runtime.spec import Foreground, PreprocessSpec, WindowSpec
from gcis_runtime.system.stage_clock import StageClock
from tests.support import fake_cuda
from tests.support.bundles_and_images import ROI, smooth_ct, write_ct
from tests.support.fake_session import ThresholdSession, threshold_bundle
from tests.support.gpu_blending import Session

LOW, HIGH = -175.0, 250.0


class AirSession(ThresholdSession):
    """Session whose output depends on the whole window, so that window positions affect labels."""

    count = 2

    def run(self, window):
        answers = []
        for inside in np.asarray(window)[:, 0]:
            seen = np.float32(0.23) * (inside[32, 32, 32] + inside[5, 60, 20] - inside[50, 8, 40])
            answers.append([2 * inside - 1 - seen, np.float32(0.5) - inside - seen, 0 * inside][: self.count])
        return np.array(answers, dtype=np.float32)


def bundle_of(rule, *, overlap=0.25, **preprocess):
    """Return a bundle for the session; `rule` is a margin, or None for a bundle without a rule."""
    bundle = threshold_bundle()
    fields = {"orientation": "RAS", "spacing": (2.0, 2.0, 2.0), "intensity_window": (LOW, HIGH), **preprocess}
    if rule is not None:
        fields["foreground"] = Foreground(margin=rule)
    window = WindowSpec(patch_size=ROI, overlap=overlap)
    manifest = msgspec.structs.replace(bundle.manifest, preprocess=PreprocessSpec(**fields), window=window)
    return replace(bundle, manifest=manifest)


def segmenter_of(rule, **bundle):
    return Segmenter(LoadedEngine(bundle_of(rule, **bundle), AirSession()))


def body_in_air(shape, box, *, seed=0):
    """Return air of -1000 HU with a body of other values in a box (first index and end of each axis)."""
    out = np.full(shape, -1000, dtype=np.int16)
    part = tuple(slice(*ends) for ends in box)
    body = smooth_ct(shape, seed=seed)[part]
    out[part] = np.where(body < -900, -100, body)
    return out


def affine_of(linear):
    affine = np.eye(4)
    affine[:3, :3] = linear
    affine[:3, 3] = (120, -80, 40)
    return affine


TURN = Rotation.from_euler("xyz", [10, -7, 23], degrees=True).as_matrix()
CASES = {
    "anisotropic, off centre": (
        np.diag([-1.5, -1.5, 4.0]), (200, 130, 40), ((120, 190), (8, 120), (3, 31)),
    ),
    "permuted and flipped, smaller than a window on two axes": (
        np.array([[0, 1.7, 0], [0, 0, -1.5], [3.3, 0, 0]]), (60, 120, 150), ((20, 50), (30, 60), (20, 140)),
    ),
    "oblique": (TURN @ np.diag([-1.63, 1.63, 3.1]), (110, 90, 60), ((40, 105), (10, 70), (12, 50))),
    "gantry tilt": (
        np.array([[1.63, 0, 0], [0, 1.63, 0.6], [0, 0, 3.1]]), (90, 80, 60), ((30, 70), (20, 60), (12, 50)),
    ),
    "on its own grid": (np.diag([2.0, 2.0, 2.0]), (150, 90, 80), ((60, 140), (20, 70), (5, 40))),
    "smaller than a window, at the border": (
        np.diag([2.03, 2.5, 2.07]), (90, 70, 100), ((0, 20), (50, 70), (40, 60)),
    ),
    "an image smaller than a window": (np.diag([2.0, 2.0, 3.0]), (40, 40, 20), ((4, 30), (10, 35), (2, 15))),
    "nothing but body": (np.diag([2.0, 2.0, 2.0]), (90, 70, 66), ((0, 90), (0, 70), (0, 66))),
}  # fmt: skip
"""Directions and voxel size, shape, and where the body is. Where MONAI resamples with noise, no
voxel of the file lies on the first plane outside the box: answers are positive in air here, and 1e-16 of one
would make a label of it."""


def case_volume(name):
    linear, shape, box = CASES[name]
    return Volume(array=body_in_air(shape, box, seed=3), affine=affine_of(linear))


def monai_transforms(spec):
    """Return MONAI's training transforms for a network with a rule."""
    steps = [
        ScaleIntensityRanged(["image"], *spec.intensity_window, 0, 1, clip=True),
        CropForegroundd(["image"], "image", margin=spec.crop.margin, allow_smaller=True),
    ]
    if spec.spacing is not None:
        steps.insert(0, Spacingd(["image"], spec.spacing, mode="bilinear"))
    if spec.orientation is not None:
        steps.insert(0, Orientationd(["image"], spec.orientation, labels=None))
    return Compose(steps)


def reference(volume, spec, window, restore):
    """Run MONAI's transforms with the crop, its sliding window, and the inverse of logits or labels."""
    transform = monai_transforms(spec)
    image = MetaTensor(torch.from_numpy(volume.array.astype(np.float32))[None], affine=volume.affine)
    data = transform({"image": image})
    session = AirSession()
    margins = sliding_window_inference(
        data["image"].as_tensor()[None],
        window.patch_size, 1, lambda w: torch.from_numpy(session.run(w.numpy())),
        overlap=window.overlap, mode=window.blend, sigma_scale=window.sigma_scale, cval=window.padding_value,
    )  # fmt: skip
    smooth = restore == "smooth"
    best, channel = margins[0].max(0, keepdim=True)
    values = margins[0] if smooth else torch.where(best > 0, channel + 1, 0).float()
    data["label"] = MetaTensor(values, meta=data["image"].meta)
    undone = Invertd("label", transform, orig_keys="image", nearest_interp=not smooth)(data)["label"]
    if not smooth:
        return undone[0].numpy().astype(np.uint8)
    best, channel = undone.max(0)
    return torch.where(best > 0, channel + 1, 0).numpy().astype(np.uint8)


# Labels


@pytest.mark.parametrize("restore", ["nearest", "smooth"])
@pytest.mark.parametrize("margin", [0, 3])
@pytest.mark.parametrize("case", CASES)
def test_labels_are_those_of_monais_cropped_pipeline(case, margin, restore):
    volume, ours = case_volume(case), segmenter_of(margin)
    spec, window = ours.bundle.manifest.preprocess, ours.bundle.manifest.window
    expected = reference(volume, spec, window, restore)
    result = ours.segment(volume, restore=restore)
    assert np.mean(result.labels == expected) >= 0.9999
    assert min(np.mean(expected == value) for value in (1, 2)) > 0.001  # the test can see
    whole = ours.segment(volume, restore=restore, body_crop=False)
    if case != "nothing but body":
        assert np.mean(whole.labels == expected) < 0.99  # and the rule changes something
    else:
        np.testing.assert_array_equal(whole.labels, result.labels)


@pytest.mark.parametrize("restore", ["nearest", "smooth"])
def test_air_alone_is_background_without_a_window(restore):
    volume = Volume(array=np.full((90, 80, 70), -1000, np.int16), affine=np.diag([2.0, 2.0, 2.0, 1.0]))
    ours = segmenter_of(5)
    spec, window = ours.bundle.manifest.preprocess, ours.bundle.manifest.window
    result = ours.segment(volume, restore=restore)
    np.testing.assert_array_equal(result.labels, reference(volume, spec, window, restore))
    assert not result.labels.any() and result.windows == 0
    assert result.crop["box"] is None and result.crop["windows_saved"] > 0
    assert "no voxel is above -175 HU: all labels are background" in result.warnings
    assert ours.segment(volume, restore=restore, body_crop=False).labels.any()


# The box


@st.composite
def images(draw):
    shape = draw(st.tuples(*(st.integers(1, 40) for _ in range(3))))
    ends = [sorted((draw(st.integers(0, n)), draw(st.integers(0, n)))) for n in shape]
    array = np.full(shape, -1000, np.int16)
    array[tuple(slice(*e) for e in ends)] = draw(st.sampled_from([-175, -174, 40]))
    if draw(st.booleans()):  # a voxel of noise somewhere
        array[tuple(draw(st.integers(0, n - 1)) for n in shape)] = draw(st.sampled_from([-500, 3000]))
    angle = draw(st.sampled_from([0.0, 0.0, 13.0]))
    linear = Rotation.from_euler("xyz", [angle, -angle, angle], degrees=True).as_matrix()
    linear = linear[:, list(draw(st.permutations(range(3))))] * draw(st.sampled_from([0.8, 2.0, 3.1]))
    if draw(st.booleans()):
        linear = linear @ np.array([[1, 0, 0], [0, 1, 0.3], [0, 0, 1]])  # gantry tilt
    spec = PreprocessSpec(
        orientation=draw(st.sampled_from([None, "RAS", "PIL"])),
        spacing=draw(st.sampled_from([None, (2.0, 2.0, 2.0), (1.1, 2.9, 1.3)])),
        foreground=Foreground(margin=draw(st.sampled_from([0, 0, 2, 50]))),
    )
    return Volume(array=array, affine=affine_of(linear)), spec


@settings(max_examples=100, deadline=None)
@given(images())
def test_the_box_is_monais(found):
    volume, spec = found
    transform = monai_transforms(spec)
    image = MetaTensor(torch.from_numpy(volume.array.astype(np.float32))[None], affine=volume.affine)
    found = transform({"image": image})
    starts, ends = found["foreground_start_coord"], found["foreground_end_coord"]
    box = foreground_box(preprocess(volume, spec), spec.crop)
    if (starts == ends).all():
        assert box is None
    else:
        assert [[part.start, part.stop] for part in box] == np.stack([starts, ends], axis=1).tolist()


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
@pytest.mark.parametrize("count", [0, 1, 5, 400])
def test_values_above_a_limit_are_found_in_every_layout(count, dtype):
    rng = np.random.default_rng(count)
    values = np.full((9, 12, 7), -32768, dtype)
    values[tuple(rng.integers(0, values.shape, (count, 3)).T)] = -174
    expected = positive_box(values > -175) if count else None
    for order in ("C", "F"):
        for flips in ((), (0,), (1, 2), (0, 1, 2)):
            array = np.flip(np.array(np.flip(values, flips), order=order), flips)
            assert foreground._box_above(array, np.float32(-175)) == expected
            assert foreground._box_above(array, np.float32(-174)) is None


@pytest.mark.parametrize("tilt", [0.4, -0.4])
@pytest.mark.parametrize("side", [slice(0, 3), slice(-3, None)])
def test_beyond_a_tilted_border_the_last_voxels_go_on(tilt, side):
    """A tilted grid extends beyond the border of the file, where MONAI repeats border voxels (here: body)."""
    array = np.full((20, 30, 40), -1000, np.int16)
    array[5:15, side, 15:25] = 40
    linear = np.array([[2, 0, 0], [0, 2, 2 * tilt], [0, 0, 2]])
    volume = Volume(array=array, affine=affine_of(linear))
    spec = PreprocessSpec(spacing=(1.9, 1.9, 1.9), foreground=Foreground())
    image = MetaTensor(torch.from_numpy(array.astype(np.float32))[None], affine=volume.affine)
    found = monai_transforms(spec)({"image": image})
    box = foreground_box(preprocess(volume, spec), spec.crop)
    assert [part.start for part in box] == found["foreground_start_coord"].tolist()
    assert [part.stop for part in box] == found["foreground_end_coord"].tolist()


def test_only_what_is_not_known_is_computed(monkeypatch):
    """Only planes at the faces of the box are computed, not the whole image."""
    array = body_in_air((120, 120, 120), ((30, 90), (20, 60), (50, 110)))
    image = preprocess(
        Volume(array=array, affine=np.diag([2.0, 2.0, 2.0, 1.0])), PreprocessSpec(spacing=(1.5, 1.5, 1.5))
    )
    computed, real = [], type(image).box

    def box(self, part):
        computed.append(np.prod([p.stop - p.start for p in part]))
        return real(self, part)

    monkeypatch.setattr(type(image), "box", box)
    found = foreground_box(image, Foreground())
    assert found is not None and sum(computed) < 0.05 * np.prod(image.transform.shape)


# Windows


@settings(max_examples=100, deadline=None)
@given(data=st.data(), overlap=st.sampled_from([0.0, 0.25, 0.6]), axis=st.sampled_from([None, 0, 1, 2]))
def test_windows_lie_as_monai_lays_them_on_the_cropped_grid(data, overlap, axis):
    shape = data.draw(st.tuples(*(st.integers(1, 220) for _ in range(3))))
    ends = [
        sorted(data.draw(st.lists(st.integers(0, n), min_size=2, max_size=2, unique=True))) for n in shape
    ]
    box = tuple(slice(*e) for e in ends)
    sizes = [b - a for a, b in ends]
    padded = [max(n, 64) for n in sizes]
    step = [64 if n == 64 else max(1, int(64 * (1 - overlap))) for n in padded]
    offset = [a - (p - n) // 2 for (a, _), p, n in zip(ends, padded, sizes, strict=True)]
    expected = {
        tuple(s.start + o for s, o in zip(part, offset, strict=True))
        for part in dense_patch_slices(padded, ROI, step)
    }
    plan = plan_windows(shape, WindowSpec(patch_size=ROI, overlap=overlap), axis=axis, within=box)
    found = [tuple(s - b for s, b in zip(start, plan.before, strict=True)) for start in plan.starts]
    assert set(found) == expected and len(found) == len(expected)
    assert all(
        s >= 0 and s + 64 <= n for start in plan.starts for s, n in zip(start, plan.padded, strict=True)
    )
    assert list(plan.starts) == sorted(plan.starts, key=lambda s: (s[plan.axis], s))
    # What a window covers outside the box counts for nothing, and only that.
    weights = weights_within(np.ones(ROI, np.float32), plan, box)
    covered = np.zeros(plan.padded, np.float32)
    for start in plan.starts:
        covered[tuple(slice(s, s + 64) for s in start)] += weights
    inner = tuple(slice(a + b, e + b) for (a, e), b in zip(ends, plan.before, strict=True))
    assert covered[inner].all() and np.count_nonzero(covered) == np.prod(sizes)


def test_without_a_part_windows_and_weights_are_as_ever():
    spec = WindowSpec(patch_size=ROI)
    whole = (slice(0, 90), slice(0, 40), slice(0, 200))
    assert plan_windows((90, 40, 200), spec, within=whole) == plan_windows((90, 40, 200), spec)
    weights = window_weights(spec)
    plan = plan_windows((200, 200, 200), spec, within=(slice(10, 100),) * 3)
    assert weights_within(weights, plan, (slice(10, 100),) * 3) is weights


def test_only_what_windows_read_is_computed():
    """Only the part of each plane inside the box is computed; the content of windows does not change."""
    array = np.random.default_rng(0).random((200, 180, 90), np.float32)
    box = (slice(100, 180), slice(20, 50), slice(5, 85))
    spec = WindowSpec(patch_size=ROI, overlap=0.25)
    plan = plan_windows(array.shape, spec, axis=2, within=box)
    asked = []

    def read(part):
        asked.append([(p.start, p.stop) for p in part[:2]])
        return array[part]

    reader = WindowReader(read, plan, padding_value=0.0)
    padded = pad_to_plan(array, plan, 0.0)
    for start in plan.starts:
        window = padded[tuple(slice(s, s + 64) for s in start)]
        np.testing.assert_array_equal(reader(start)[0, 0], window)
    assert all(part == [(100, 180), (3, 67)] for part in asked) and asked


@pytest.mark.parametrize("restore", ["nearest", "smooth"])
@pytest.mark.parametrize("masks", [False, True])
def test_gpu_and_cpu_agree(restore, masks):
    """Windows are cut off on both sides of a box that is smaller than a window."""
    array = body_in_air((70, 60, 110), ((30, 60), (10, 50), (5, 90)))
    volume = Volume(array=array, affine=np.diag([-2.0, -2.0, 3.0, 1.0]))
    spec = PreprocessSpec(orientation="RAS", spacing=(2.0, 2.5, 2.0), foreground=Foreground(margin=1))
    window, image = WindowSpec(patch_size=ROI, overlap=0.25), preprocess(volume, spec)
    session, values = AirSession(), (1, 2)
    session.count = 3  # as the simulated device's network has
    laid = place_windows(image, spec, window, window_weights(window))
    assert np.count_nonzero(laid.weights == 0) and any(np.array(laid.plan.shape) > 64)

    def label(labeller):
        sink = LabelSink(transform=image.transform, shape=volume.shape, values=values, masks=masks)
        task = LabelTask(
            image=image, plan=laid.plan, weights=laid.weights, padding_value=0.0, channels=(0, 1),
            values=values, restore=restore,
        )  # fmt: skip
        labeller.label(task, sink, StageClock(*STAGES))
        return sink

    device = Session(fake_cuda.FakeDriver(), ROI, run=lambda inside: session.run(inside[None, None])[0])
    ours = label(GpuLabeller(device, Kernels(device.gpu, b"")))
    theirs = label(CpuLabeller(session.run))
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    assert len(np.unique(ours.labels)) == 3
    if masks:
        assert all(np.array_equal(ours.masks()[v], theirs.masks()[v]) for v in values)


# Together with everything else


AIRY = case_volume("anisotropic, off centre")


def test_a_volume_with_much_air_takes_fewer_windows_and_the_report_says_so():
    ours = segmenter_of(0)
    result, whole = ours.segment(AIRY), ours.segment(AIRY, body_crop=False)
    crop = json.loads(msgspec.json.encode(result.report().crop))
    assert crop["windows_saved"] == whole.windows - result.windows > 0
    assert crop["windows_of_whole_grid"] == whole.windows and crop["margin"] == 0
    assert all(0 <= a < b <= n for (a, b), n in zip(crop["box"], crop["grid"], strict=True))
    assert result.windows_skipped == 0 and whole.crop == {} and result.region == {}
    assert any("trained on images cropped to the foreground" in w for w in whole.warnings)
    assert not any("air around" in w for w in result.warnings)
    assert result.forecast["windows"] == result.windows


def test_body_crop_asked_for_is_the_rule_where_there_is_one_and_else_the_body():
    ours, without = segmenter_of(2), segmenter_of(None)
    np.testing.assert_array_equal(ours.segment(AIRY, body_crop=True).labels, ours.segment(AIRY).labels)
    assert ours.segment(AIRY, body_crop=True).region == {}
    plain, found = without.segment(AIRY), without.segment(AIRY, body_crop=True)
    assert plain.crop == found.crop == {} and plain.region == {}
    assert found.region["within"] == "the body"
    np.testing.assert_array_equal(without.segment(AIRY, body_crop=False).labels, plain.labels)
    for no in (False, np.False_):
        np.testing.assert_array_equal(ours.segment(AIRY, body_crop=no).labels, plain.labels)


@pytest.mark.parametrize("restore", ["nearest", "smooth"])
def test_a_region_holds_the_labels_of_the_whole_cropped_run(restore):
    ours = segmenter_of(1, overlap=0.5)
    whole = ours.segment(AIRY, restore=restore)
    part = ours.segment(AIRY, restore=restore, roi="100:140,30:80,10:20")
    inside = (slice(100, 140), slice(30, 80), slice(10, 20))
    np.testing.assert_array_equal(part.labels[inside], whole.labels[inside])
    assert len(np.unique(part.labels[inside])) > 1
    assert part.windows + part.windows_skipped == whole.windows and part.crop == whole.crop


def test_a_coarse_pass_follows_the_rule_too(monkeypatch):
    spec = coarse_spec(AIRY, bundle_of(4).manifest.preprocess, 2.0)
    assert spec.crop == Foreground(margin=4) and spec.spacing == (4.0, 4.0, 4.0)
    assert spec.intensity_window == (LOW, HIGH)
    seen, real = [], passes.place_windows

    def lay(*arguments, crop):
        seen.append((arguments[1].spacing, arguments[1].crop, crop))
        return real(*arguments, crop=crop)

    monkeypatch.setattr(passes, "place_windows", lay)
    ours, other = segmenter_of(0), segmenter_of(3, spacing=(5.0, 5.0, 5.0))
    for body_crop, crop in ((None, True), (False, False)):
        seen.clear()
        ours.segment(AIRY, coarse=2.0, body_crop=body_crop)
        ours.segment(AIRY, coarse=other, body_crop=body_crop)
        assert seen == [
            ((4.0, 4.0, 4.0), Foreground(), crop),
            ((2.0, 2.0, 2.0), Foreground(), crop),
            ((5.0, 5.0, 5.0), Foreground(margin=3), crop),
            ((2.0, 2.0, 2.0), Foreground(), crop),
        ]


def test_slabs_along_another_axis_keep_the_crop():
    plan = plan_windows(
        (220, 100, 90), WindowSpec(patch_size=ROI), within=(slice(50, 190), slice(60, 80), slice(0, 70))
    )
    for axis in range(3):
        other = with_slab_axis(plan, axis)
        assert set(other.starts) == set(plan.starts) and (other.before, other.padded) == (
            plan.before,
            plan.padded,
        )
        assert list(other.starts) == sorted(plan.starts, key=lambda s: (s[axis], s))


def test_less_memory_gives_the_same_windows(monkeypatch):
    monkeypatch.setattr(forecast, "resident_bytes", lambda: 100 << 20)
    array = body_in_air((190, 90, 140), ((20, 180), (10, 80), (5, 135)))
    volume = Volume(array=array, affine=np.diag([2.0, 2.0, 2.0, 1.0]))
    ours = segmenter_of(0)
    _, whole = ours.segment(volume), ours.segment(volume)  # the second forecast knows what the first run took
    less = ours.segment(volume, max_memory=whole.forecast["host_bytes"] - 1)
    assert "slabs along X" in less.steps[0]
    assert less.windows == whole.windows < ours.segment(volume, body_crop=False).windows
    assert less.crop == whole.crop and np.mean(less.labels == whole.labels) > 0.9999


# Settings and files


def test_a_rule_has_a_sane_margin_and_needs_zeros_around():
    for margin in (-1, 1001):
        with pytest.raises(ValueError, match=f"foreground margin {margin} is not from 0 to 1000"):
            Foreground(margin=margin)
    manifest = bundle_of(0).manifest
    wrong = json.loads(encode(manifest))
    wrong["window"]["padding_value"] = 0.5
    with pytest.raises(BundleError, match=r"padding value 0.5 with a foreground rule"):
        decode(json.dumps(wrong).encode(), source="m")
    del wrong["preprocess"]["foreground"]
    assert decode(json.dumps(wrong).encode(), source="m").window.padding_value == 0.5


def test_a_manifest_says_the_rule_only_where_there_is_one():
    with_rule, without = bundle_of(3), bundle_of(None)
    assert json.loads(encode(with_rule.manifest))["preprocess"]["foreground"] == {"margin": 3}
    assert decode(encode(with_rule.manifest), source="m") == with_rule.manifest
    assert b"foreground" not in encode(without.manifest)
    assert "cropped to voxels above -175 HU with a margin of 3 voxels" in describe(with_rule)
    assert "cropped" not in describe(without)


def test_resume_knows_what_was_cropped(tmp_path):
    ours, without = segmenter_of(0), segmenter_of(None)
    image = write_ct(tmp_path / "ct.nii.gz")

    def key(segmenter, **options):
        segment = SegmentOptions(**options)
        key = run_key(identity_of(segmenter, segment), image, RunOptions(segment=segment))
        return msgspec.to_builtins(key).get("body_crop")

    assert [key(ours, body_crop=given) for given in (None, True, False)] == [None, None, False]
    assert [key(without, body_crop=given) for given in (None, True, False)] == [None, True, None]
    assert key(without, body_crop=False, coarse=ours) is False and key(without, coarse=ours) is None
    assert key(without, body_crop=False, coarse=2.0) is None


def test_the_command_has_three_ways(tmp_path, monkeypatch):
    monkeypatch.setattr(run_images, "find_bundle", lambda name, _prompts: name)
    monkeypatch.setattr(run_images, "open_bundle", lambda name: segmenter_of(int(name)).bundle)
    monkeypatch.setattr(Segmenter, "open", classmethod(lambda cls, _bundle, **_: segmenter_of(0)))
    write_volume(tmp_path / "ct.nii.gz", AIRY)
    text = CliRunner().invoke(cli.main, [str(tmp_path / "ct.nii.gz"), "--bundle", "0", "-o", str(tmp_path)])
    found = {}
    for way in ([], ["--body-crop"], ["--no-body-crop"]):
        arguments = [
            str(tmp_path / "ct.nii.gz"),
            "--bundle",
            "0",
            "-o",
            str(tmp_path / "out"),
            "--json",
            *way,
        ]
        done = CliRunner().invoke(cli.main, arguments)
        assert done.exit_code == 0, done.output
        (report,) = json.loads(done.stdout)["results"]
        found[" ".join(way)] = (report["windows"]["total"], report["crop"].get("windows_saved"))
        shutil.rmtree(tmp_path / "out")
    assert found[""] == found["--body-crop"] and found[""][1] == found["--no-body-crop"][0] - found[""][0] > 0
    assert found["--no-body-crop"][1] is None
    assert f"{found[''][0]} windows, {found[''][1]} saved by the crop" in text.stdout
