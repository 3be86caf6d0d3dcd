"""Test post-processing rules: on label maps and masks, in every way to compute them, and in the report."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from gcis_runtime import SegmentOptions, Volume
from gcis_runtime.bundles.manifest import decode, encode
from gcis_runtime.bundles.post_rules import PostRules, read_rules
from gcis_runtime.errors import BundleError
from gcis_runtime.pipeline.footprint import host_footprint
from gcis_runtime.pipeline.loaded_engine import LoadedEngine
from gcis_runtime.pipeline.post import apply_rules
from gcis_runtime.pipeline.segmenter import Segmenter
from tests.support.fake_session import ThresholdSession, threshold_bundle
from tests.support.forecasting import engine_and_sizes

pytestmark = pytest.mark.usefixtures("own_home")
ALL = "largest,min:0.01,fill"


def grid(*shape):
    return np.zeros(shape, dtype=np.uint8, order="F")


def cleaned(labels, rules, voxel_ml=0.001):
    out = labels.copy(order="F")
    changes = apply_rules(out, {v: read_rules(text) for v, text in rules.items()}, voxel_ml=voxel_ml)
    for value, change in changes.items():
        before, after = np.count_nonzero(labels == value), np.count_nonzero(out == value)
        assert after - before == change.added - change.removed
    return out, changes


def test_the_largest_component_is_kept_and_corners_connect():
    labels = grid(12, 12, 12)
    labels[1:4, 1:4, 1:4] = labels[4:6, 4:6, 4:6] = 1  # joined at a corner: 27 + 8 voxels
    labels[8:11, 8:11, 8:11] = 1
    labels[8:11, 1:3, 1:3] = 2
    out, changes = cleaned(labels, {1: "largest"})
    assert (out == 1).sum() == 35 and (out == 2).sum() == 12
    assert (changes[1].removed, changes[1].added) == (27, 0)
    assert list(changes) == [1]


def test_of_equal_components_the_first_in_the_file_is_kept():
    labels = grid(5, 5, 5)
    labels[4, 4, 0] = labels[0, 0, 4] = 1
    out, _ = cleaned(labels, {1: "largest"})
    assert np.argwhere(out == 1).tolist() == [[4, 4, 0]]


@pytest.mark.parametrize(("volume", "left"), [("0.008", 35), ("0.0081", 27), ("0.027", 27), ("0.1", 0)])
def test_components_below_the_minimum_volume_are_removed(volume, left):
    labels = grid(12, 12, 12)
    labels[1:4, 1:4, 1:4] = labels[7:9, 7:9, 7:9] = 1
    out, changes = cleaned(labels, {1: f"min:{volume}"})
    assert (out > 0).sum() == left and changes[1].removed == 35 - left


def shell(labels, low, high, value):
    labels[low:high, low:high, low:high] = value
    labels[low + 1 : high - 1, low + 1 : high - 1, low + 1 : high - 1] = 0


def test_a_hole_is_closed_by_faces_and_never_overwrites_another_structure():
    labels = grid(9, 9, 9)
    shell(labels, 1, 8, 1)
    labels[4, 4, 4] = 2
    out, changes = cleaned(labels, {1: "fill"})
    assert out[4, 4, 4] == 2 and (out == 1).sum() == 343 - 1 and changes[1].added == 124
    labels[1, 4, 4] = 0  # open through a face
    assert np.array_equal(cleaned(labels, {1: "fill"})[0], labels)


def test_a_gap_at_an_edge_does_not_open_a_hole():
    labels = grid(9, 9, 9)
    shell(labels, 1, 8, 1)
    labels[1, 1, :] = 0
    assert cleaned(labels, {1: "fill"})[1][1].added == 125


def test_background_at_the_border_of_the_image_is_not_a_hole():
    labels = grid(7, 7, 7)
    shell(labels, 0, 7, 1)
    labels[0, 1:6, 1:6] = 0  # closed by the border of the image alone
    assert np.array_equal(cleaned(labels, {1: "fill"})[0], labels)


def test_holes_of_nested_structures_belong_to_the_innermost_one():
    labels = grid(13, 13, 13)
    shell(labels, 1, 12, 1)
    shell(labels, 3, 10, 2)
    for rules in ({1: "fill", 2: "fill"}, {2: "fill", 1: "fill"}):
        out, _ = cleaned(labels, rules)
        assert (out[3:10, 3:10, 3:10] == 2).all() and (out == 1).sum() == 11**3 - 7**3


def test_small_parts_are_removed_before_holes_are_filled():
    labels = grid(11, 11, 11)
    shell(labels, 1, 10, 1)
    labels[5, 5, 5] = 1  # an island in the hole
    labels[3, 3, 3] = 2
    out, changes = cleaned(labels, {1: "largest,fill", 2: "min:0.002"})
    assert (out[1:10, 1:10, 1:10] == 1).all()  # also where structure 2 was removed
    assert (changes[1].removed, changes[1].added, changes[2].removed) == (1, 343, 1)


def test_the_result_does_not_depend_on_memory_order_or_absent_structures():
    labels = np.asfortranarray(np.random.default_rng(0).integers(0, 4, (20, 15, 10)).astype(np.uint16))
    rules = {1: ALL, 3: "min:0.003", 900: ALL}
    out, changes = cleaned(labels, rules)
    copy = np.ascontiguousarray(labels)
    apply_rules(copy, {v: read_rules(text) for v, text in rules.items()}, voxel_ml=0.001)
    assert np.array_equal(copy, out)
    assert (changes[900].removed, changes[900].added) == (0, 0)


def test_rules_need_no_more_memory_than_is_forecast():
    labels = grid(256, 200, 120)
    random = np.random.default_rng(1)
    labels[5:250, 5:195, 5:115] = 1
    labels[tuple(random.integers(0, n, 20_000) for n in labels.shape)] = 0
    labels[tuple(random.integers(0, n, 20_000) for n in labels.shape)] = 1
    _, sizes, way = engine_and_sizes()
    wanted = replace(sizes.requested, post=True)
    bound = host_footprint(way.plan, sizes.transform, labels.shape, wanted, graph_channels=2).post
    tracemalloc.start()
    apply_rules(labels, {1: read_rules(ALL)}, voxel_ml=0.001)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < bound


# Text and manifest


@pytest.mark.parametrize("text", ["largest", "min:0.5", "fill", "largest,min:2,fill", "largest,fill"])
def test_rules_are_read_and_written(text):
    assert read_rules(text).text == text
    assert read_rules(", ".join(reversed(text.split(",")))) == read_rules(text)


@pytest.mark.parametrize(
    "text",
    ["", "big", "largest,largest", "min", "min:", "min:x", "min:0", "min:-1", "min:nan", "min:inf", "fill:3"],
)
def test_wrong_rules_are_refused(text):
    with pytest.raises(BundleError, match=r"(?s)post-processing rules.*received.*expected"):
        read_rules(text)


def with_rules(rules, **preprocess):
    bundle = threshold_bundle(**preprocess)
    labels = tuple(
        msgspec.structs.replace(label, post=read_rules(rules[label.value])) if label.value in rules else label
        for label in bundle.manifest.labels
    )
    return replace(bundle, manifest=msgspec.structs.replace(bundle.manifest, labels=labels))


def test_the_manifest_keeps_rules_and_is_unchanged_without_them():
    plain = threshold_bundle().manifest
    assert b"post" not in encode(plain)
    manifest = with_rules({2: "largest,min:0.5"}).manifest
    text = encode(manifest)
    assert decode(text, source="m") == manifest
    assert msgspec.json.decode(text)["labels"][1]["post"] == {"largest": True, "min_ml": 0.5}
    for wrong in (b'"smooth": true', b'"min_ml": -1', b'"largest": false, "min_ml": 0'):
        with pytest.raises(BundleError):
            decode(text.replace(b'"min_ml": 0.5', wrong).replace(b'"largest": true,', b""), source="m")


def test_a_rule_that_this_version_does_not_know_is_refused():
    assert PostRules.__struct_config__.forbid_unknown_fields


# Whole runs: structure 1 above 25 HU, structure 2 below -25 HU


@pytest.fixture
def volume():
    hu = np.zeros((60, 50, 40), dtype=np.int16)
    hu[5:30, 5:30, 5:30] = 100
    hu[10:14, 10:14, 10:14] = 0  # a hole
    hu[20:22, 20:22, 20:22] = -100  # another structure in it
    hu[50:54, 40:44, 30:34] = 100
    hu[40:42, 5:7, 5:7] = -100
    return Volume(array=hu, affine=np.diag([2.0, 2.0, 2.0, 1.0]))


def segment(bundle, volume, **options):
    with Segmenter(LoadedEngine(bundle, ThresholdSession())) as segmenter:
        return segmenter.segment(volume, options=SegmentOptions(**options))


def test_rules_of_the_bundle_are_applied_and_reported(volume):
    bundle = with_rules({1: "largest,fill"}, orientation="LPS", spacing=None)
    raw, found = segment(bundle, volume, raw=True), segment(bundle, volume)
    assert (raw.labels == 1).sum() == 25**3 - 64 - 8 + 64
    assert (found.labels == 1).sum() == 25**3 - 8 and (found.labels == 2).sum() == 16
    one, two = found.structures
    assert (one.voxels, one.volume_ml) == (25**3 - 8, round((25**3 - 8) * 0.008, 4))
    report = found.report().structures
    assert msgspec.to_builtins(report[0].post) == {"rules": "largest,fill", "removed": 64, "added": 64}
    assert two.post is None and report[1].post is msgspec.UNSET
    assert found.seconds["post"] > 0 and "post" not in raw.seconds
    assert all(s.post is None for s in raw.structures)


@pytest.mark.parametrize(
    ("restore", "limited"), [("smooth", False), ("nearest", False), ("published", False), ("smooth", True)]
)
def test_rules_act_on_the_labels_of_a_run_without_them(volume, restore, limited, monkeypatch):
    volume = Volume(array=np.pad(volume.array, ((0, 120), (0, 0), (0, 80))), affine=volume.affine)
    rules = {1: ALL, 2: "largest"}
    bundle = with_rules(rules, spacing=(2.5, 3.0, 2.0))
    limits = {}
    if limited:
        monkeypatch.setattr("gcis_runtime.pipeline.forecast.resident_bytes", lambda: 1)
        segment(bundle, volume, raw=True)  # later forecasts use its calibration
        limits["max_memory"] = int(segment(bundle, volume, raw=True).forecast["host_bytes"]) - 1
    raw = segment(bundle, volume, restore=restore, raw=True, **limits)
    found = segment(bundle, volume, restore=restore, **limits)
    assert found.steps == raw.steps and bool(raw.steps) == limited
    expected = raw.labels.copy(order="F")
    apply_rules(expected, {v: read_rules(text) for v, text in rules.items()}, voxel_ml=volume.voxel_ml)
    assert np.array_equal(found.labels, expected) and not np.array_equal(expected, raw.labels)


def test_masks_follow_the_rules_and_probabilities_do_not(volume):
    bundle = with_rules({1: "largest,fill"}, spacing=None)
    raw = segment(bundle, volume, masks=True, probabilities=True, raw=True)
    found = segment(bundle, volume, masks=True, probabilities=True)
    assert raw.masks[1].sum() == 25**3 - 8
    assert found.masks[1].sum() == 25**3  # a mask may overlap others: nothing is spared
    assert np.array_equal(found.masks[2], raw.masks[2])
    assert np.array_equal(found.probabilities[1], raw.probabilities[1])


def test_a_structure_that_rules_remove_and_rules_on_a_part_are_warnings(volume):
    bundle = with_rules({2: "min:5"}, spacing=None)
    found = segment(bundle, volume)
    assert (found.labels == 2).sum() == 0
    assert any("removed every voxel" in w and "min:5" in w for w in found.warnings)
    part = segment(bundle, volume, roi="0:40,0:40,0:40")
    assert any("applied to the computed part" in w for w in part.warnings)
    assert not any("rule" in w for w in segment(bundle, volume, raw=True, roi="0:40,:,:").warnings)


def test_only_a_run_with_rules_forecasts_them():
    _, sizes, way = engine_and_sizes()
    more = replace(sizes.requested, post=True)
    plain, post = (
        host_footprint(way.plan, sizes.transform, sizes.shape, requested, graph_channels=2)
        for requested in (sizes.requested, more)
    )
    assert plain.post == 0 and post.total == plain.total
    assert post.afterwards > plain.afterwards


def test_rules_that_need_more_than_the_windows_raise_the_forecast(monkeypatch):
    monkeypatch.setattr("gcis_runtime.pipeline.forecast.resident_bytes", lambda: 1)
    volume = Volume(array=np.zeros((64, 240, 240), dtype=np.int16), affine=np.diag([2.0, 2.0, 2.0, 1.0]))
    bundle = with_rules({1: ALL}, spacing=(20.0, 20.0, 20.0))
    _, raw, found = (  # the first run calibrates the memory of the engine
        segment(bundle, volume, restore="nearest", raw=raw).forecast["host_bytes"]
        for raw in (True, True, False)
    )
    assert found > raw + (10 << 20)


def test_the_coarse_pass_finds_structures_without_rules(volume):
    bundle = with_rules({2: "min:5"}, spacing=None)
    found = segment(bundle, volume, coarse=2.0)
    assert found.region["coarse"]["missing"] == [] and (found.labels == 2).sum() == 0


def test_a_volume_equal_to_the_minimum_is_kept_despite_rounding():
    labels = grid(4, 4, 4)
    labels[1:3, 1:4, 1] = 1
    assert 6 * 0.15 < 0.9
    assert (cleaned(labels, {1: "min:0.9"}, voxel_ml=0.15)[0] == 1).sum() == 6
