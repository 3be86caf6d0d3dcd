"""Test the plausibility of positions: silent on patients, a warning for wrong orientations."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from gcis_runtime import Bundle, Segmenter, Volume
from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.bundles.store import find_bundle
from gcis_runtime.demo.phantom import make_phantom
from gcis_runtime.pipeline.loaded_engine import LoadedEngine
from gcis_runtime.pipeline.positions import measure_positions, position_warnings
from gcis_runtime.structures import anatomy
from gcis_runtime.structures.match import concept_of
from tests.support.fake_session import ThresholdSession, threshold_bundle

LABELS = open_bundle(find_bundle("demo", ())).manifest.labels
VALUES = [label.value for label in LABELS]
FLIPS = {"upside down": (2,), "front to back": (1,), "prone": (0, 1), "mirrored": (0,)}


@pytest.fixture(scope="module")
def phantom():
    return make_phantom(3, spacing=(6.0, 6.0, 6.0))


def warn(labels, affine):
    return position_warnings(LABELS, measure_positions(np.asfortranarray(labels), affine, VALUES))


def test_positions_are_those_of_the_voxels_in_mm(phantom):
    turn = np.array([[0, -3.0, 0.5], [2.5, 0, 0], [0, 0.4, 4.0]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn, (1000, -400, 7)
    found = measure_positions(phantom.labels, affine, VALUES)
    assert sorted(found) == VALUES
    for value, position in found.items():
        mm = np.argwhere(phantom.labels == value) @ turn.T + affine[:3, 3]
        np.testing.assert_allclose(position.centre, mm.mean(axis=0), atol=1e-6)
        spread = np.sqrt(((mm - mm.mean(axis=0)) ** 2).sum(axis=1).mean())
        assert position.spread == pytest.approx(spread, abs=1e-6)
        assert position.ml == pytest.approx(len(mm) * abs(np.linalg.det(turn)) / 1000)


def test_of_small_voxels_some_are_read(phantom):
    """Reading all voxels of a large image takes seconds."""
    labels, affine = phantom.labels.repeat(6, 0).repeat(3, 1), phantom.affine.copy()
    affine[:3, 3] -= phantom.affine[:3, :3] @ [2.5 / 6, 1 / 3, 0]
    affine[:3, :3] /= [6, 3, 1]
    expected = measure_positions(phantom.labels, phantom.affine, VALUES)
    found = measure_positions(np.asfortranarray(labels), affine, VALUES)
    for value in VALUES:
        np.testing.assert_allclose(found[value].centre, expected[value].centre, atol=2.0)
        assert found[value].spread == pytest.approx(expected[value].spread, rel=0.03)
        assert found[value].ml == pytest.approx(expected[value].ml, rel=0.1)
    one = np.zeros((6, 6, 6), dtype=np.uint16, order="F")
    one[1, 1, 1] = 65535
    assert measure_positions(one, np.eye(4), [65535]) == {}
    assert measure_positions(one, np.diag([3.0, 3.0, 3.0, 1.0]), [65535]).keys() == {65535}


def test_a_phantom_is_plausible_in_any_order_of_its_axes(phantom):
    assert warn(phantom.labels, phantom.affine) == ()
    moved = phantom.affine[:, [2, 0, 1, 3]]
    assert warn(phantom.labels.transpose(2, 0, 1), moved) == ()


@pytest.mark.parametrize(
    ("how", "seen"),
    [
        ("upside down", "mandible is not above larynx"),
        ("front to back", "mandible is not in front of brainstem"),
        ("prone", "larynx is not in front of spinal cord"),
        ("mirrored", "left parotid gland is not left of right parotid gland"),
    ],
)
def test_flipped_labels_are_a_warning(phantom, how, seen):
    (text,) = warn(np.flip(phantom.labels, FLIPS[how]), phantom.affine)
    assert text.startswith("structures are where they cannot be: ") and seen in text
    assert "mm)" in text and "Expected: a CT" in text


def test_scattered_voxels_are_a_warning_but_few_of_them_are_not(phantom):
    labels = phantom.labels.copy()
    labels[labels == 1] = 0
    labels[:4, :4, :4] = labels[-4:, -4:, -4:] = 1
    (text,) = warn(labels, phantom.affine)
    assert "brainstem spreads over" in text and "at most 35" in text
    noise = phantom.labels.copy()
    noise[noise == 3] = 0
    noise[:1, :2, :2] = 3  # 0.86 mL of the right parotid gland on the left
    assert warn(noise, phantom.affine) == ()


def test_a_part_of_the_structures_is_plausible(phantom):
    for value in VALUES:
        assert warn(np.where(phantom.labels == value, value, 0).astype(np.uint8), phantom.affine) == ()
    assert warn(np.zeros_like(phantom.labels), phantom.affine) == ()


def test_names_of_the_tables_are_known_structures():
    names = {name for first, _, second in anatomy.ORDER for name in (first, second)} | set(
        anatomy.MOST_SPREAD_MM
    )
    assert names <= {concept_of(label.prompt).structure for label in LABELS}


def test_a_segmentation_warns_and_reports():
    """The left gland is found on the right side, the right one on the left side."""
    made = threshold_bundle(orientation="RAS", spacing=(4.0, 4.0, 4.0))
    left, right = made.manifest.labels
    labels = [
        msgspec.structs.replace(left, prompt="Parotid_L", name="left parotid"),
        msgspec.structs.replace(right, prompt="Parotid_R", name="right parotid"),
    ]
    pathways = [
        msgspec.structs.replace(pathway, prompt=label.prompt)
        for pathway, label in zip(made.manifest.pathways, labels, strict=True)
    ]
    manifest = msgspec.structs.replace(made.manifest, labels=tuple(labels), pathways=tuple(pathways))
    bundle = Bundle(folder=made.folder, manifest=manifest, sha256=made.sha256)
    array = np.full((40, 30, 20), 0, dtype=np.int16)
    array[28:34, 10:16, 8:12], array[6:12, 10:16, 8:12] = 200, -900
    volume = Volume(array=array, affine=np.diag([4.0, 4.0, 4.0, 1.0]))
    segmenter = Segmenter(LoadedEngine(bundle, ThresholdSession()))
    result = segmenter.segment(volume)
    (found,) = [w for w in result.report().warnings if "where they cannot be" in w]
    assert "left parotid is not left of right parotid (-88 mm)" in found
    mirrored = replace(volume, array=np.ascontiguousarray(array[::-1]))
    assert not any("cannot be" in w for w in segmenter.segment(mirrored).warnings)
