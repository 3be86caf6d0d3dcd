"""Test label maps: integers on the image's grid from every format, or one clear error."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from gcis_runtime.errors import ImageError
from gcis_runtime.images.files import read_grid, read_volume
from gcis_runtime.images.grid import check_same_grid
from gcis_runtime.images.labels import read_labels
from tests.support.bundles_and_images import set_pixdim

AFFINE = np.array([[0, -1.5, 0, 40], [0, 0, -2.5, 30], [1.2, 0, 0, -20], [0, 0, 0, 1]], dtype=float)
"""Permuted and anisotropic: axis mistakes show."""
LABELS = np.random.default_rng(0).integers(0, 5, (9, 8, 7)).astype(np.uint8)


def save(path: Path, array: np.ndarray, affine: np.ndarray = AFFINE, dtype: type | None = None) -> Path:
    """Write NIfTI; a `dtype` smaller than the array's makes nibabel store scaled values."""
    image = nib.Nifti1Image(array, affine, dtype=array.dtype)
    if dtype is not None:
        image.set_data_dtype(dtype)
    nib.save(image, path)
    return path


def save_itk(path: Path, array: np.ndarray) -> Path:
    """Write NRRD or MetaImage by SimpleITK alone, which selects the format by the lower-case suffix."""
    source = save(path.parent / "source.nii.gz", array)
    written = path.with_name(f"written{path.suffix.lower()}")
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(source)), str(written))
    return written.rename(path)


@pytest.mark.parametrize(
    "dtype", [np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32, np.int64, np.float32, np.float64]
)
def test_every_type_gives_the_same_labels(tmp_path, dtype):
    found = read_labels(save(tmp_path / "a.nii.gz", LABELS.astype(dtype)))
    assert found.array.dtype == np.uint8 and found.shape == (9, 8, 7)
    np.testing.assert_array_equal(found.array, LABELS)
    np.testing.assert_allclose(found.affine, AFFINE)


@pytest.mark.parametrize("name", ["A.NII", "A.NII.GZ", "a.nrrd", "A.NRRD", "a.seg.nrrd", "a.mha", "A.MHA"])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_every_format_gives_the_same_labels_and_grid(tmp_path, name, dtype):
    image = read_grid(save(tmp_path / "ct.nii.gz", LABELS.astype(np.int16)))
    if name.lower().endswith((".nii", ".nii.gz")):
        path = save(tmp_path / name.lower(), LABELS.astype(dtype)).rename(tmp_path / name)
    else:
        path = save_itk(tmp_path / name, LABELS.astype(dtype))
    np.testing.assert_array_equal(read_labels(path, like=image).array, LABELS)
    found = read_grid(path)
    assert (found.shape, found.orientation) == ((9, 8, 7), "SLP")
    assert found.spacing == pytest.approx((1.2, 1.5, 2.5)) and found.voxel_ml == pytest.approx(4.5e-3)
    np.testing.assert_allclose(read_volume(path).affine, found.affine)


def test_a_detached_metaimage_with_floats(tmp_path):
    save_itk(tmp_path / "a.mha", LABELS.astype(np.float32))
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(tmp_path / "a.mha")), str(tmp_path / "b.mhd"))
    np.testing.assert_array_equal(read_labels(tmp_path / "b.mhd").array, LABELS)


@pytest.mark.parametrize("dtype", [np.uint8, np.int16])
@pytest.mark.parametrize("highest", [4, 7, 117])
def test_scale_factors_are_applied_and_their_rounding_is_removed(tmp_path, highest, dtype):
    labels = (np.arange(LABELS.size) % (highest + 1)).reshape(LABELS.shape).astype(np.float64)
    path = save(tmp_path / "a.nii.gz", labels, dtype=dtype)
    assert nib.load(path).dataobj.slope < 0.5
    np.testing.assert_array_equal(read_labels(path).array, labels)


def test_a_scale_factor_too_coarse_for_the_labels_is_an_error(tmp_path):
    labels = (np.arange(LABELS.size) % 201).reshape(LABELS.shape).astype(np.float64)
    with pytest.raises(ImageError, match="between whole numbers"):  # multiples of 200 / 255
        read_labels(save(tmp_path / "a.nii.gz", labels, dtype=np.uint8))


def test_rounding_noise_is_removed_and_large_values_widen_the_type(tmp_path):
    labels = LABELS.astype(np.float32) * np.float32(0.9999999)
    np.testing.assert_array_equal(read_labels(save(tmp_path / "a.nii", labels)).array, LABELS)
    wide = np.where(LABELS == 1, np.float32(65535), LABELS)
    found = read_labels(save(tmp_path / "b.nii", wide)).array
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, wide)


def test_a_fourth_axis_of_length_1_is_one_volume(tmp_path):
    image = read_volume(save(tmp_path / "ct.nii.gz", LABELS.astype(np.int16)))
    for shape in ((*LABELS.shape, 1), (*LABELS.shape, 1, 1)):
        path = save(tmp_path / "a.nii.gz", LABELS.reshape(shape))
        np.testing.assert_array_equal(read_labels(path, like=image).array, LABELS)
    with pytest.raises(ImageError, match=r"a.nii.gz: the image is not three-dimensional"):
        read_labels(save(tmp_path / "a.nii.gz", np.stack([LABELS, LABELS], axis=-1)))


def _changed(value: float, dtype: type = np.float32) -> np.ndarray:
    labels = LABELS.astype(dtype)
    labels[2, 3, 4] = value
    return labels


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (_changed(2.5), "values between whole numbers; received 1 voxels, the first 2.5 at (2, 3, 4)"),
        (_changed(0.02), "values between whole numbers; received 1 voxels, the first 0.02 at (2, 3, 4)"),
        (_changed(np.nan), "values that are not finite; received 1 voxels, the first nan at (2, 3, 4)"),
        (_changed(np.inf), "values that are not finite; received 1 voxels, the first inf at (2, 3, 4)"),
        (_changed(-1, np.int16), "values outside the range of label values; received 1 voxels, the first -1"),
        (_changed(-1), "values outside the range of label values; received 1 voxels, the first -1 at"),
        (_changed(65536, np.int32), "values outside the range of label values; received 1 voxels, the first"),
        (_changed(2**40, np.int64), "expected whole numbers from 0 to 65535. Renumber"),
    ],
)
def test_other_values_are_an_error_that_names_the_voxel(tmp_path, array, message):
    path = save(tmp_path / "a.nii.gz", array)
    with pytest.raises(ImageError, match=re.escape("a.nii.gz: the label map has values")) as caught:
        read_labels(path)
    assert message in str(caught.value) and "expected whole numbers from 0 to 65535" in str(caught.value)


def test_an_interpolated_label_map_is_an_error_also_with_a_scale_factor(tmp_path):
    soft = np.linspace(0, 4, LABELS.size).reshape(LABELS.shape)
    for number, dtype in enumerate((np.float32, np.int16, np.uint8)):
        with pytest.raises(ImageError, match=r"between whole numbers.*nearest-neighbour"):
            read_labels(save(tmp_path / f"{number}.nii.gz", soft, dtype=dtype))
    with pytest.raises(ImageError, match="between whole numbers"):
        read_labels(save_itk(tmp_path / "a.nrrd", soft.astype(np.float32)))


RGB = np.zeros((4, 4, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])


@pytest.mark.parametrize("array", [RGB, np.zeros((4, 4, 4), np.complex64)], ids=["colour", "complex"])
def test_colour_and_complex_voxels_have_one_message_for_images_and_labels(tmp_path, array):
    path = save(tmp_path / "a.nii.gz", array)
    messages = []
    for read in (read_volume, read_labels, read_grid):
        with pytest.raises(ImageError, match=r"a.nii.gz: the voxels are not real numbers") as caught:
            read(path)
        messages.append(str(caught.value))
    assert len(set(messages)) == 1


def test_a_colour_nrrd_is_refused_as_a_label(tmp_path):
    SimpleITK.WriteImage(SimpleITK.Image([4, 4, 4], SimpleITK.sitkVectorUInt8, 3), str(tmp_path / "a.nrrd"))
    for read in (read_volume, read_labels, read_grid):
        with pytest.raises(ImageError, match=r"a.nrrd: the voxels are not real numbers"):
            read(tmp_path / "a.nrrd")


@pytest.mark.parametrize("voxel", [0.5, 5.0])
def test_the_tolerance_of_grids_is_relative_to_the_voxel_size(tmp_path, voxel):
    plain = np.diag([voxel, voxel, 2 * voxel, 1])
    image = read_volume(save(tmp_path / "ct.nii.gz", LABELS.astype(np.int16), plain))
    for share, fits in ((0.09, True), (0.11, False)):
        moved = plain.copy()
        moved[0, 3] = share * voxel
        path = save(tmp_path / "a.nii.gz", LABELS, moved)
        if fits:
            np.testing.assert_array_equal(read_labels(path, like=image).array, LABELS)
            check_same_grid(read_grid(tmp_path / "ct.nii.gz"), read_grid(path), name="a")
        else:
            with pytest.raises(
                ImageError, match=rf"a.nii.gz is on a different grid.*at most {0.1 * voxel:g} mm"
            ):
                read_labels(path, like=image)
    stretched = np.diag([voxel * 1.02, voxel, 2 * voxel, 1])  # 0.16 voxels at the far corner
    with pytest.raises(ImageError, match="a different grid"):
        read_labels(save(tmp_path / "a.nii.gz", LABELS, stretched), like=image)
    with pytest.raises(ImageError, match=r"a different shape from the image; received \(8, 8, 7\)"):
        read_labels(save(tmp_path / "a.nii.gz", LABELS[1:], plain), like=image)


def test_the_grid_comes_from_the_affine_and_not_from_pixdim(tmp_path):
    for name, array in (("ct", LABELS.astype(np.int16)), ("seg", LABELS)):
        image = nib.Nifti1Image(array, AFFINE)
        image.set_sform(AFFINE, 1)
        image.header["qform_code"] = 0
        nib.save(image, tmp_path / f"{name}.nii.gz")
    path = set_pixdim(tmp_path / "ct.nii.gz", 1)
    volume = read_volume(path)
    np.testing.assert_allclose(volume.affine, AFFINE)
    np.testing.assert_allclose(read_grid(path).affine, AFFINE)
    np.testing.assert_array_equal(read_labels(tmp_path / "seg.nii.gz", like=volume).array, LABELS)


def test_files_that_cannot_be_read(tmp_path):
    for name in ("a.dcm", "a.npy", "a.nii.gz"):
        (tmp_path / name).write_bytes(b"something else")
        for read in (read_grid, read_labels, read_volume):
            with pytest.raises(ImageError, match=rf"{name} is not a NIfTI file.*\.nrrd.*dcm2niix"):
                read(tmp_path / name)
            with pytest.raises(ImageError, match=r"missing.nii does not exist"):
                read(tmp_path / "missing.nii")
            with pytest.raises(ImageError, match="the argument is not a path; received int"):
                read(3)
    (tmp_path / "a.nrrd").write_bytes(b"not an image")
    with pytest.raises(ImageError, match=r"a.nrrd cannot be read"):
        read_grid(tmp_path / "a.nrrd")
