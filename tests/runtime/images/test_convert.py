"""Test conversion of arrays, nibabel and SimpleITK images, and back on the same grid."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from gcis_runtime import GcisError, Segmenter, Volume, read_volume
from gcis_runtime.errors import ImageError
from gcis_runtime.images.convert import as_volume
from tests.support.bundles_and_images import smooth_ct
from tests.support.fake_session import threshold_segmenter

ANGLE = np.deg2rad(20)
TURN = np.array([[np.cos(ANGLE), -np.sin(ANGLE), 0], [np.sin(ANGLE), np.cos(ANGLE), 0], [0, 0, 1]])
AFFINE = np.eye(4)
AFFINE[:3, :3] = TURN @ np.diag([-1.5, 2.0, 3.0])
AFFINE[:3, 3] = (30, -20, 10)


@pytest.fixture
def array():
    return smooth_ct((20, 18, 12))


def itk_of(array):
    """Return the image as SimpleITK represents it (LPS, Z first), without code of this project."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(array.T))
    lps = np.diag([-1.0, -1.0, 1.0])
    image.SetSpacing([1.5, 2.0, 3.0])
    image.SetDirection((lps @ TURN @ np.diag([-1.0, 1.0, 1.0])).ravel().tolist())
    image.SetOrigin((lps @ AFFINE[:3, 3]).tolist())
    return image


def test_every_kind_of_image_gives_the_same_labels(array):
    nifti = nib.Nifti1Image(array, AFFINE)
    with threshold_segmenter() as segmenter:
        expected = segmenter.segment(Volume(array=array, affine=AFFINE)).labels
        assert set(np.unique(expected)) == {0, 1, 2}
        for image, extra in (
            (array, {"affine": AFFINE}),
            (array.astype(np.float64), {"affine": AFFINE.tolist()}),
            (nifti, {}),
            (nib.Nifti1Image(array[..., None], AFFINE), {}),
            (nib.MGHImage(array.astype(np.float32), AFFINE), {}),
            (itk_of(array), {}),
        ):
            np.testing.assert_array_equal(segmenter.segment(image, **extra).labels, expected)


def test_a_nibabel_image_gives_back_one_with_its_codes(array):
    image = nib.Nifti1Image(array, AFFINE)
    image.set_qform(AFFINE, code=3)
    image.set_sform(AFFINE, code=4)
    image.header["descrip"] = b"patient name"
    with threshold_segmenter() as segmenter:
        result = segmenter.segment(image)
    back = result.to_nibabel()
    assert (int(back.header["qform_code"]), int(back.header["sform_code"])) == (3, 4)
    assert back.header["descrip"] == b""
    np.testing.assert_array_equal(back.affine, image.affine)
    np.testing.assert_array_equal(np.asarray(back.dataobj), result.labels)
    assert image.header["descrip"] == b"patient name"  # the caller's header is not ours to change
    np.testing.assert_array_equal(np.asarray(image.dataobj), array)


def test_a_header_that_means_another_affine_is_not_kept(array):
    image = nib.Nifti1Image(array, AFFINE)
    image.header.set_sform(np.diag([9.0, 9, 9, 1]), code=1)  # after the image was made
    volume = as_volume(image)
    assert volume.header is None
    np.testing.assert_array_equal(volume.affine, AFFINE)


def test_contradicting_forms_of_a_nibabel_image_are_noted(array):
    image = nib.Nifti1Image(array, AFFINE)
    image.set_qform(np.diag([2.0, 2, 2, 1]), code=1)
    image.set_sform(AFFINE, code=1)
    assert as_volume(image).notes == ("qform and sform disagree: the sform is used",)


def test_a_simpleitk_image_gives_back_one_on_its_grid(array):
    image = itk_of(array)
    with threshold_segmenter() as segmenter:
        result = segmenter.segment(image)
    back = result.to_simpleitk()
    assert back.GetSize() == image.GetSize()
    for name in ("GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(getattr(back, name)(), getattr(image, name)(), atol=1e-9)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(back), result.labels.T)
    assert sitk.GetArrayViewFromImage(image).tolist() == array.T.tolist()


@pytest.mark.parametrize(
    ("image", "options", "message"),
    [
        (np.zeros((3, 3, 3)), {}, "an array needs an affine"),
        (np.zeros((3, 3)), {"affine": np.eye(4)}, "not three-dimensional"),
        (np.full((3, 3, 3), np.nan), {"affine": np.eye(4)}, "27 of 27 voxels"),
        (np.zeros((3, 3, 3)), {"affine": np.zeros((4, 4))}, "affine"),
        (np.zeros((3, 3, 3)), {"affine": "RAS"}, "affine"),
        (np.zeros((3, 3, 3)), {"affine": [[1, 0, 0], [1]]}, "affine"),
        (
            nib.Nifti1Image(np.zeros((3, 3, 3), np.int16), np.eye(4)),
            {"affine": np.eye(4)},
            "already has an affine",
        ),
        (nib.Nifti1Image(np.zeros((3, 3, 3, 2), np.int16), np.eye(4)), {}, "not three-dimensional"),
        (sitk.Image([3, 3, 3, 2], sitk.sitkInt16), {}, "not three-dimensional"),
        (sitk.Image([3, 3], sitk.sitkInt16), {}, "not three-dimensional"),
        (sitk.Image([3, 3, 3], sitk.sitkVectorUInt8, 3), {}, "not real numbers"),
        ("ct.nii.gz", {}, "ct.nii.gz does not exist"),
        (Path("ct.nii.gz"), {"affine": np.eye(4)}, "already has an affine"),
        (b"ct.nii.gz", {}, "not an image; received bytes"),
        (3, {}, "not an image; received int"),
        (np.zeros((3, 3, 3, 2)), {"affine": np.eye(4)}, "not three-dimensional"),
        (np.zeros((3, 3, 3), complex), {"affine": np.eye(4)}, "not real numbers; received complex128"),
        (np.zeros((3, 3, 3)), {"affine": np.eye(4) * 1j}, "affine"),
        (None, {}, "not an image; received NoneType"),
        ([[[0]]], {"affine": np.eye(4)}, "not an image; received list"),
        (np.ma.masked_equal(np.eye(3)[None], 0), {"affine": np.eye(4)}, "masked voxels; received 6 of 9"),
    ],
)
def test_what_cannot_be_used_is_one_clear_line(image, options, message):
    with pytest.raises(ImageError, match=message) as caught:
        as_volume(image, **options)
    assert "\n" not in str(caught.value)


def test_a_file_may_be_named(array, tmp_path):
    path = tmp_path / "ct.nii.gz"
    nib.save(nib.Nifti1Image(array, AFFINE), path)
    with threshold_segmenter() as segmenter:
        expected = segmenter.segment(read_volume(path)).labels
        for name in (path, str(path)):
            np.testing.assert_array_equal(segmenter.segment(name).labels, expected)


def test_an_array_with_four_axes_and_one_volume_is_that_volume(array):
    one = as_volume(array[..., None], affine=AFFINE)
    np.testing.assert_array_equal(one.array, array)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"roi": ((0, 1), (0, 1), (0, 1))},
            "the region of interest is not a string; received tuple; expected x0:x1",
        ),
        ({"roi": Path("mask.nii.gz")}, "mask.nii.gz does not exist"),
        ({"coarse": "2"}, "not a factor of a coarse pass; received '2'; expected more than 1"),
        ({"coarse": float("nan")}, "not a factor of a coarse pass; received nan"),
        ({"max_memory": "2G"}, "not an amount of memory; received '2G'; expected bytes"),
        ({"max_memory": 0}, "not an amount of memory; received 0"),
        ({"max_memory": True}, "not an amount of memory; received True"),
        ({"restore": None}, "unknown method to restore labels; received None"),
    ],
)
def test_options_of_a_wrong_kind_are_one_clear_line(array, options, message):
    with threshold_segmenter() as segmenter, pytest.raises(GcisError, match=message):
        segmenter.segment(array, affine=AFFINE, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threads": 0}, "the number of threads is invalid; received 0; expected 1 to"),
        ({"threads": -1}, "the number of threads is invalid; received -1"),
        (
            {"threads": 100_000},
            "the number of threads is invalid; received 100000",
        ),  # would start them, and hang
        ({"threads": "2"}, "the number of threads is invalid; received '2'"),
        ({"threads": 1.0}, "the number of threads is invalid; received 1.0"),
        ({"device": None}, "unknown device; received None"),
        ({"prompts": "bone"}, r"the prompts are a single string; received 'bone'; .* Pass \['bone'\]"),
        ({"prompts": [1]}, "no such prompt; received 1"),
        ({"bundle": 5}, "the bundle is not a path or a name; received int"),
        ({"bundle": ["demo"]}, "the bundle is not a path or a name; received list"),
    ],
)
def test_what_a_segmenter_cannot_be_opened_with(make_bundle, options, message):
    opening = {"bundle": make_bundle(), "engine": "onnx", **options}
    with pytest.raises(GcisError, match=message) as caught:
        Segmenter.open(**opening)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [None, 5, b"ct.nii.gz", ["ct.nii.gz"]])
def test_a_file_is_read_by_its_path(name):
    with pytest.raises(ImageError, match="the argument is not a path; received"):
        read_volume(name)


def test_without_simpleitk_the_extra_is_named(array, monkeypatch):
    with threshold_segmenter() as segmenter:
        result = segmenter.segment(array, affine=AFFINE)
    monkeypatch.setitem(__import__("sys").modules, "SimpleITK", None)
    with pytest.raises(ImageError, match="needs SimpleITK"):
        result.to_simpleitk()
