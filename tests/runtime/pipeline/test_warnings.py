"""Test warnings about an image: orientation, geometry, values, field of view."""

from __future__ import annotations

import msgspec
import nibabel as nib
import numpy as np
import pytest

from gcis_runtime import Segmenter, Volume, read_volume
from gcis_runtime.bundles.bundle import Bundle, open_bundle
from gcis_runtime.bundles.describe import describe
from gcis_runtime.bundles.manifest import decode, encode
from gcis_runtime.demo.phantom import make_phantom
from gcis_runtime.engines.options import EngineOptions
from gcis_runtime.images import files as formats
from gcis_runtime.pipeline.warnings import (
    OBLIQUE_DEGREES,
    context_warnings,
    intensity_warnings,
    limit_warnings,
    nothing_found_warnings,
    oblique_warnings,
    untrained_warnings,
)
from gcis_runtime.spec import WindowSpec
from tests.support.bundles_and_images import smooth_ct, write_bundle
from tests.support.fake_session import threshold_segmenter

OBLIQUE = np.array([[-1.9, 0.2, 0.1, 90], [-0.2, -1.9, 0.3, 80], [0.1, 0.3, 2.9, -40], [0, 0, 0, 1.0]])


def image(path, *, sform=0, qform=0, other=None, **fields):
    made = nib.Nifti1Image(smooth_ct((9, 8, 7)), None)
    made.set_qform(np.diag([2.0, 2, 2, 1]) if other is None else other, code=qform)
    made.set_sform(np.diag([2.0, 2, 2, 1]), code=sform)
    block = made.header
    for name, value in fields.items():
        block[name] = value
    block["magic"], block["vox_offset"] = b"n+1", fields.get("vox_offset", 352)
    path.write_bytes(block.binaryblock + bytes(4) + smooth_ct((9, 8, 7)).tobytes(order="F"))
    return path


def moved(distance):
    other = np.diag([2.0, 2, 2, 1])
    other[0, 3] = distance
    return other


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"sform": 1}, ()),
        ({"qform": 1}, ()),
        ({"sform": 1, "qform": 1}, ()),
        ({"sform": 1, "qform": 1, "other": moved(0.9)}, ()),
        ({}, ("neither qform nor sform is set: the orientation is a guess",)),
        ({"sform": 1, "qform": 1, "other": moved(1.2)}, ("qform and sform disagree: the sform is used",)),
        ({"sform": 1, "qform": 1, "quatern_b": 3.0}, ("the qform is invalid: the sform is used",)),
        ({"sform": 1, "qform_code": 77}, ("header repaired: qform_code 77 not valid; setting to 0",)),
    ],
    ids=str,
)
def test_guesses_about_orientation(tmp_path, options, expected):
    volume = read_volume(image(tmp_path / "a.nii", **options))
    assert volume.notes == expected
    with threshold_segmenter() as segmenter:
        assert segmenter.segment(volume).warnings[: len(expected)] == expected


def test_a_repaired_voxel_size_is_said(tmp_path):
    path = image(tmp_path / "a.nii", sform=1, pixdim=[1, -2, 2, 2, 0, 0, 0, 0])
    assert read_volume(path).notes == (
        "header repaired: pixdim[1,2,3] should be positive; setting to abs of pixdim values",
    )


def test_a_rotation_by_nearly_half_a_turn_is_no_contradiction(tmp_path):
    """A float32 quaternion represents this angle imprecisely, as in most CT, so no warning is given."""
    angle = np.pi - 2e-4
    turn = np.array([[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([0.7, 0.7, 3.0])
    made = nib.Nifti1Image(np.zeros((512, 512, 2), np.int16), affine)
    made.set_qform(affine, code=1)
    made.set_sform(affine, code=1)
    nib.save(made, tmp_path / "a.nii")
    assert read_volume(tmp_path / "a.nii").notes == ()


def test_extensions_are_skipped_whatever_they_claim(tmp_path):
    path = image(tmp_path / "a.nii", sform=1, vox_offset=352 + 64)
    data = path.read_bytes()
    claim = np.array([2**31 - 16, 6], "<i4").tobytes() + bytes(56)
    path.write_bytes(data[:348] + b"\x01\0\0\0" + claim + data[352:])
    np.testing.assert_array_equal(read_volume(path).array, smooth_ct((9, 8, 7)))


def test_a_field_of_view_below_the_trained_window_is_said_by_direction():
    window = WindowSpec(patch_size=(64, 96, 64))
    assert context_warnings((64, 96, 64), np.diag([2.0, 2, 3, 1]), window) == ()
    assert context_warnings((63, 96, 40), np.diag([2.0, 2, 3, 1]), window) == (
        "the field of view is smaller than the window that was trained: "
        "126 of 128 mm left-right, 120 of 192 mm head-feet",
    )
    turned = OBLIQUE[:, [2, 0, 1, 3]]
    assert "head-feet" in context_warnings((40, 96, 64), turned, window)[0]


def test_the_field_of_view_is_that_on_the_networks_grid(tmp_path):
    folder = write_bundle(tmp_path / "b.gcis")  # 64 voxels of 2 mm, RAS
    large = Volume(array=smooth_ct((65, 33, 44)), affine=np.diag([2.0, 4.0, 3.0, 1.0]))
    short = Volume(array=smooth_ct((33, 20, 65)), affine=np.diag([4.0, 3.0, 2.0, 1.0])[[0, 2, 1, 3]])
    with Segmenter.open(folder, engine="onnx") as segmenter:
        assert segmenter.segment(large).warnings == ()
        assert segmenter.segment(short).warnings == (
            "the field of view is smaller than the window that was trained: 60 of 128 mm head-feet",
        )


@pytest.mark.parametrize("space", ["", "space: left-posterior-superior\n"])
def test_an_nrrd_file_without_a_space_is_a_guess(tmp_path, space):
    place = (
        "space directions: (2,0,0) (0,2,0) (0,0,3)\nspace origin: (0,0,0)\n" if space else "spacings: 2 2 3\n"
    )
    header = (
        f"NRRD0004\ntype: short\ndimension: 3\n{space}sizes: 9 8 7\n{place}endian: little\nencoding: raw\n\n"
    )
    (tmp_path / "a.nrrd").write_bytes(header.encode() + smooth_ct((9, 8, 7)).tobytes(order="F"))
    notes = formats.read_volume(tmp_path / "a.nrrd").notes
    guesses = ("the NRRD header has no space field: the orientation is a guess",)
    assert notes == () if space else set(guesses) <= set(notes)


def test_a_run_that_took_more_than_was_allowed_says_so():
    assert limit_warnings(50 << 20, 300 << 20, 200 << 20) == (
        "the run took 300 MiB of memory, 200 MiB were allowed",
    )
    for before, peak, allowed in ((300, 300, 200), (50, 200, 200), (50, 300, None), (None, None, 200)):
        assert limit_warnings(before, peak, allowed) == ()


def test_untrained_prompts_are_reported_where_they_are_segmented(tmp_path):
    folder = write_bundle(tmp_path / "b.gcis")
    assert "untrained" not in (folder / "manifest.json").read_text()  # older versions can read the bundle
    manifest = open_bundle(folder).manifest
    first, second = manifest.pathways
    marked = msgspec.structs.replace(
        manifest, pathways=(first, msgspec.structs.replace(second, untrained=True)), notes=("a note",)
    )
    again = decode(encode(marked), source="test")
    assert again == marked and untrained_warnings(again, (0,)) == ()
    assert untrained_warnings(again, (0, 1)) == (
        f"the network was not trained with the prompt {second.prompt!r}",
    )
    text = describe(Bundle(folder=folder, manifest=again, sha256="0" * 64))
    assert f"{second.prompt} (not trained)" in text and "note: a note" in text


def rotated(degrees: float, axis: int) -> np.ndarray:
    """Return an affine with anisotropic voxels, flipped axes, and a rotation about an axis of the patient."""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    one, two = (a for a in range(3) if a != axis)
    turn = np.eye(4)
    turn[one, one] = turn[two, two] = c
    turn[one, two], turn[two, one] = -s, s
    return turn @ np.array([[0, -0.8, 0, 5], [-0.8, 0, 0, 7], [0, 0, 3, 1], [0, 0, 0, 1.0]])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_oblique_axes_are_a_warning_from_the_measured_angle_on(axis):
    assert oblique_warnings(rotated(0, axis)) == oblique_warnings(rotated(90, axis)) == ()
    assert oblique_warnings(rotated(OBLIQUE_DEGREES - 1, axis)) == ()
    assert "are 16 degrees off those of the patient" in oblique_warnings(rotated(16, axis))[0]
    assert "are 30 degrees off" in oblique_warnings(rotated(-60, axis))[0]


def test_nothing_found_is_a_warning(make_bundle):
    labels = open_bundle(make_bundle()).manifest.labels
    assert nothing_found_warnings(labels, {1: 0, 2: 1}) == ()
    names = ", ".join(label.name for label in labels)
    assert nothing_found_warnings(labels, {1: 0, 2: 0}) == (f"nothing was found of: {names}",)
    with Segmenter.open(make_bundle("c.gcis"), options=EngineOptions(engine="onnx")) as segmenter:
        air = np.full((20, 18, 16), -1000, dtype=np.int16)
        air[0, 0, 0], air[1, 0, 0] = -1024, 200
        found = segmenter.segment(Volume.from_array(air, affine=np.diag([2.0, 2, 2, 1])))
    assert ("nothing was found" in " ".join(found.warnings)) == (not any(s.voxels for s in found.structures))


UNLIKE_CT = {
    "not rescaled": (lambda hu: hu + 1024, "no value below 0"),
    "not rescaled, padding": (lambda hu: np.where(hu < -900, -2000, hu + 1024), "are fat or soft tissue"),
    "offset subtracted twice": (lambda hu: hu - 1024, "are fat or soft tissue"),
    "MR with padding": (lambda hu: np.where(hu < -900, -1000, (hu + 1000) * 0.5), "is it CT in HU?"),
    "clipped": (lambda hu: np.clip(hu, -160, 240), "are unusual for CT in HU"),
    "z-scores": (lambda hu: (hu - hu.mean()) / hu.std(), "are unusual for CT in HU"),
    "only air and lung": (lambda hu: np.minimum(hu, -600), "unusual"),
}


@pytest.mark.parametrize("how", UNLIKE_CT)
def test_intensities_unlike_ct_are_a_warning_with_what_was_seen(how):
    hu = make_phantom(2, spacing=(6.0, 6.0, 6.0)).ct.astype(np.float32)
    change, seen = UNLIKE_CT[how]
    assert intensity_warnings(hu) == ()
    assert intensity_warnings(hu.astype(np.int16)[:, :, 3:9]) == ()
    (text,) = intensity_warnings(change(hu))
    assert seen in text
    if "fat or soft tissue" in text:
        assert "expected at least 30%" in text and "most frequent values above -500 are " in text


def test_air_above_bone_has_no_soft_tissue():
    array = np.full((9, 9, 9), -1000, dtype=np.int16)
    array[4, 4] = 700
    assert "0% of the voxels above -500 HU" in intensity_warnings(array)[0]
