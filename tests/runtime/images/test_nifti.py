"""Test NIfTI: every kind of damage gives a clear error; geometry is preserved bit for bit."""

from __future__ import annotations

import gzip
import time

import nibabel as nib
import numpy as np
import pytest

from gcis_runtime.errors import ImageError, OutputError
from gcis_runtime.images import nifti
from gcis_runtime.images.nifti import read_volume, write_labels, write_volume
from gcis_runtime.images.volume import Volume

AFFINE = np.array([[-0.9, 0.1, 0, 10], [0.1, 0.9, 0, -20], [0, 0, 3, 5], [0, 0, 0, 1.0]])


def save(path, array, affine=AFFINE, kind=nib.Nifti1Image):
    nib.save(kind(array, affine), path)
    return path


@pytest.fixture
def array():
    return np.random.default_rng(0).integers(-1000, 2000, (9, 8, 7)).astype(np.int16)


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_integers_stay_integers(tmp_path, array, name, kind):
    volume = read_volume(save(tmp_path / name, array, kind=kind))
    assert volume.array.dtype == np.int16
    np.testing.assert_array_equal(volume.array, array)
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-6)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "uint16", "int32", "float32", "float64", ">i2", ">f4"])
def test_every_real_type_reads_as_nibabel_does(tmp_path, dtype):
    data = np.random.default_rng(1).integers(0, 100, (5, 4, 3)).astype(dtype)
    header = nib.Nifti1Header(endianness=">" if dtype.startswith(">") else "<")
    header.set_data_dtype(data.dtype)
    path = tmp_path / "a.nii.gz"
    nib.save(nib.Nifti1Image(data, AFFINE, header), path)
    volume = read_volume(path)
    np.testing.assert_array_equal(volume.array, nib.load(path).get_fdata())
    assert volume.array.dtype.isnative


def test_scaled_headers_are_applied(tmp_path, array):
    image = nib.Nifti1Image(array, AFFINE)
    image.header.set_slope_inter(0.5, -1024)
    path = tmp_path / "a.nii.gz"
    nib.save(image, path)
    volume = read_volume(path)
    assert volume.array.dtype == np.float32
    np.testing.assert_allclose(volume.array, nib.load(path).get_fdata(), rtol=1e-6)


@pytest.mark.parametrize("form", ["sform", "qform", "both"])
def test_voxels_and_affine_are_those_of_the_training_reader(tmp_path, array, form):
    from monai.transforms import LoadImage
    from scipy.spatial.transform import Rotation

    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [10, -7, 23], degrees=True).as_matrix() @ np.diag(
        [0.9, 0.9, 3]
    )
    image = nib.Nifti1Image(array, affine)
    image.set_qform(affine, code=0 if form == "sform" else 1)
    image.set_sform(None if form == "qform" else affine, code=0 if form == "qform" else 1)
    nib.save(image, tmp_path / "a.nii.gz")
    ours, theirs = read_volume(tmp_path / "a.nii.gz"), LoadImage(image_only=True)(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(ours.array, theirs.numpy())
    np.testing.assert_array_equal(ours.affine, theirs.affine.numpy())


def test_content_decides_not_the_name(tmp_path, array):
    plain = save(tmp_path / "a.nii", array)
    (tmp_path / "b.nii.gz").write_bytes(plain.read_bytes())
    np.testing.assert_array_equal(read_volume(tmp_path / "b.nii.gz").array, array)


def test_four_dimensions_with_one_volume(tmp_path, array):
    np.testing.assert_array_equal(read_volume(save(tmp_path / "a.nii.gz", array[..., None])).array, array)


def header_only(tmp_path, **fields):
    header = nib.Nifti1Header()
    header.set_data_dtype(np.int16)
    header["dim"] = fields.pop("dim", [3, 9, 8, 7, 1, 1, 1, 1])
    header["magic"] = fields.pop("magic", b"n+1")
    header["vox_offset"] = 352
    header.set_sform(fields.pop("affine", AFFINE), code=1)
    path = tmp_path / "bad.nii.gz"
    path.write_bytes(gzip.compress(header.binaryblock + bytes(4) + bytes(fields.pop("data", 1008))))
    return path


DAMAGE = {
    "missing": (lambda t, a: t / "no.nii.gz", "does not exist"),
    "folder": (lambda t, a: t, "is a folder"),
    "text": (lambda t, a: _bytes(t, b"this is not an image at all"), "not a NIfTI"),
    "nothing": (lambda t, a: _bytes(t, b""), "is empty; received 0 bytes"),
    "gzip of text": (lambda t, a: _bytes(t, gzip.compress(b"text" * 500)), "not a NIfTI"),
    "truncated gzip": (lambda t, a: _cut(save(t / "x.nii.gz", a), 0.6), "damaged or truncated"),
    "truncated header": (lambda t, a: _cut(save(t / "x.nii", a), 0.1), "damaged header"),
    "truncated plain": (lambda t, a: _cut(save(t / "x.nii", a), 0.8), "truncated"),
    "too few voxels": (lambda t, a: header_only(t, data=500), "truncated"),
    "flipped bit": (lambda t, a: _flip(save(t / "x.nii.gz", a)), "damaged"),
    "several volumes": (lambda t, a: save(t / "x.nii.gz", np.stack([a, a], -1)), "not three-dimensional"),
    "flat": (lambda t, a: header_only(t, dim=[2, 9, 8, 1, 1, 1, 1, 1]), "not three-dimensional"),
    "empty": (lambda t, a: header_only(t, dim=[3, 9, 0, 7, 1, 1, 1, 1]), "empty"),
    "huge header": (lambda t, a: header_only(t, dim=[3, 32000, 32000, 32000, 1, 1, 1, 1]), "implausible"),
    "bomb header": (lambda t, a: header_only(t, dim=[3, 1200, 1200, 1200, 1, 1, 1, 1]), "from its header"),
    "pair header": (lambda t, a: header_only(t, magic=b"ni1"), "header without voxels"),
    "colour": (lambda t, a: save(t / "x.nii", np.zeros((4, 4, 4), [(c, "u1") for c in "RGB"])), "not real"),
    "complex": (lambda t, a: save(t / "x.nii", a.astype(np.complex64)), "not real"),
    "singular": (lambda t, a: header_only(t, affine=AFFINE * [[1], [1], [0], [1]]), "size is implausible"),
    "flat affine": (lambda t, a: header_only(t, affine=_folded()), "singular"),
    "nan affine": (lambda t, a: header_only(t, affine=AFFINE * np.nan), "affine"),
}  # fmt: skip


def _bytes(folder, data):
    (folder / "x.nii.gz").write_bytes(data)
    return folder / "x.nii.gz"


def _cut(path, share):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    return path


def _flip(path):
    """Change one voxel's byte but keep the compressed stream well formed (stored blocks)."""
    raw = bytearray(gzip.compress(gzip.decompress(path.read_bytes()), compresslevel=0))
    raw[600] ^= 0xFF
    path.write_bytes(bytes(raw))
    return path


def _folded():
    affine = AFFINE.copy()
    affine[:3, 2] = affine[:3, 0]
    return affine


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_named_quickly(tmp_path, array, case):
    make, expected = DAMAGE[case]
    path = make(tmp_path, array)
    start = time.perf_counter()
    with pytest.raises(ImageError, match=expected) as caught:
        read_volume(path)
    assert time.perf_counter() - start < 2
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_non_finite_voxels_are_counted(tmp_path):
    data = np.zeros((5, 5, 5), np.float32)
    data[1, 2, 3], data[0, 0, 0], data[4, 4, 4] = np.nan, np.inf, -np.inf
    with pytest.raises(ImageError, match="3 of 125 voxels"):
        read_volume(save(tmp_path / "x.nii", data))
    with pytest.raises(ImageError, match="1 of 8 voxels"):  # too large for float32
        read_volume(save(tmp_path / "y.nii", np.array([1e300, *[0.0] * 7]).reshape(2, 2, 2)))


def test_labels_keep_the_geometry_bit_for_bit(tmp_path, array):
    image = nib.Nifti1Image(array, AFFINE)
    image.set_qform(np.diag([2.0, -2, 2, 1]), code=3)
    image.set_sform(AFFINE, code=2)
    image.header["descrip"] = b"patient name"
    source, target = tmp_path / "a.nii.gz", tmp_path / "b.nii.gz"
    nib.save(image, source)
    volume = read_volume(source)
    assert volume.notes == ("qform and sform disagree: the sform is used",)
    labels = (array > 0).astype(np.uint16)
    write_labels(target, labels, like=volume)
    before, after = nib.load(source).header, nib.load(target).header
    for field in (
        "qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y",
        "qoffset_z", "srow_x", "srow_y", "srow_z", "pixdim", "xyzt_units",
    ):  # fmt: skip
        np.testing.assert_array_equal(before[field], after[field], err_msg=field)
    assert after.get_data_dtype() == np.uint8
    assert after["descrip"] == b""
    np.testing.assert_array_equal(np.asarray(nib.load(target).dataobj), labels)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.nii.gz", "b.nii.gz"]


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_qform_only_and_no_form_survive(tmp_path, array, kind):
    for code in (0, 1):
        image = kind(array, None)
        image.set_qform(np.diag([2.0, 2, 3, 1]), code=code)
        image.set_sform(None, code=0)
        nib.save(image, tmp_path / "a.nii")
        volume = read_volume(tmp_path / "a.nii")
        assert bool(volume.notes) == (code == 0)
        write_labels(tmp_path / "b.nii", np.zeros(array.shape, np.uint8), like=volume)
        after = nib.load(tmp_path / "b.nii")
        assert type(after) is kind
        assert (int(after.header["qform_code"]), int(after.header["sform_code"])) == (code, 0)
        np.testing.assert_array_equal(after.affine, volume.affine)


def test_large_label_values_need_sixteen_bits(tmp_path, array):
    volume = Volume.from_array(array, affine=AFFINE)
    write_labels(tmp_path / "b.nii.gz", np.full(array.shape, 300, np.uint16), like=volume)
    image = nib.load(tmp_path / "b.nii.gz")
    assert image.get_data_dtype() == np.uint16
    np.testing.assert_allclose(image.affine, AFFINE, atol=1e-6)
    write_volume(tmp_path / "c.nii.gz", volume)
    np.testing.assert_array_equal(read_volume(tmp_path / "c.nii.gz").array, array)


def test_a_failed_write_leaves_nothing(tmp_path, array, monkeypatch):
    volume = Volume.from_array(array, affine=AFFINE)
    labels = np.zeros(array.shape, np.uint8)
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError, match="cannot be written"):
        write_labels(tmp_path / "file" / "a.nii.gz", labels, like=volume)
    (tmp_path / "old.nii.gz").write_text("old")

    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nifti, "_write_stream", full)
    with pytest.raises(OutputError, match="No space left"):
        write_labels(tmp_path / "old.nii.gz", labels, like=volume)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "old.nii.gz"]
    assert (tmp_path / "old.nii.gz").read_text() == "old"


def test_volumes_in_memory_are_checked():
    with pytest.raises(ImageError, match="not three-dimensional"):
        Volume.from_array(np.zeros((2, 2)), affine=np.eye(4))
    with pytest.raises(ImageError, match="unsupported type"):
        Volume(array=np.zeros((2, 2, 2)), affine=np.eye(4))
    with pytest.raises(ImageError, match="not real numbers"):
        Volume.from_array(np.zeros((2, 2, 2), complex), affine=np.eye(4))
    with pytest.raises(ImageError, match="implausible"):
        Volume.from_array(np.zeros((2, 2, 2)), affine=np.diag([0, 1, 1, 1]))
    assert Volume.from_array(np.zeros((2, 2, 2)), affine=np.diag([-2, 2, 5, 1])).voxel_ml == pytest.approx(
        0.02
    )
