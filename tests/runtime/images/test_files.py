"""Test NRRD and MetaImage: the grid agrees with SimpleITK and NIfTI, and errors are one line."""

from __future__ import annotations

import subprocess
import sys

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from gcis_runtime import Volume, read_volume, write_labels
from gcis_runtime.errors import ImageError, OutputError
from gcis_runtime.images import files as formats
from gcis_runtime.images.files import check_format, write_probability
from gcis_runtime.images.itk import ras_affine
from gcis_runtime.images.suffixes import stem, suffix_of
from tests.support.bundles_and_images import smooth_ct, write_ct

TURN = Rotation.from_euler("xyz", [10, -7, 23], degrees=True).as_matrix()


def affine_of(linear, origin=(12.5, -80, 40.25)):
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = linear, origin
    return affine


AFFINES = {
    "RAS": affine_of(np.diag([0.7, 0.8, 3.0])),
    "LPS": affine_of(np.diag([-0.7, -0.8, 3.0])),
    "permuted": affine_of(np.array([[0, 0, 3.0], [-1.5, 0, 0], [0, 1.2, 0]])),
    "oblique": affine_of(TURN @ np.diag([-1.0, 1.0, 3.0])),
    "tilt": affine_of(np.array([[0.9, 0, 0], [0, 1.1, 0.4], [0, 0, 3.0]])),
}


@pytest.mark.parametrize("suffix", [".nrrd", ".mha", ".mhd"])
@pytest.mark.parametrize("case", ["RAS", "LPS", "permuted", "oblique"])
def test_a_file_that_simpleitk_converted_is_the_same_volume(tmp_path, case, suffix):
    nifti = write_ct(tmp_path / "a.nii.gz", shape=(7, 9, 11), affine=AFFINES[case])
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(nifti)), str(tmp_path / f"a{suffix}"))
    ours, theirs = read_volume(nifti), read_volume(tmp_path / f"a{suffix}")
    assert theirs.array.dtype == np.int16 and theirs.array.flags.f_contiguous
    np.testing.assert_array_equal(ours.array, theirs.array)
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-4)


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("case", AFFINES)
def test_labels_lie_where_the_image_lies(tmp_path, case, suffix):
    volume = Volume.from_array(smooth_ct((7, 9, 11)), affine=AFFINES[case])
    labels = np.asfortranarray((volume.array > 0).astype(np.uint16) * 3)
    write_labels(tmp_path / f"x{suffix}", labels, like=volume)
    back = SimpleITK.ReadImage(str(tmp_path / f"x{suffix}"))
    assert back.GetPixelIDValue() == SimpleITK.sitkUInt8
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(back).T, labels)
    corner = np.array(back.TransformIndexToPhysicalPoint((6, 8, 10))) * (-1, -1, 1)  # LPS to RAS
    np.testing.assert_allclose(corner, (volume.affine @ (6, 8, 10, 1))[:3], atol=1e-6)
    np.testing.assert_allclose(ras_affine(back), volume.affine, atol=1e-9)
    assert [p.name for p in tmp_path.iterdir()] == [f"x{suffix}"]


@settings(max_examples=30, deadline=None)
@given(angles=st.tuples(*(st.floats(-180, 180) for _ in range(3))), seed=st.integers(0, 99))
def test_lps_and_ras_undo_each_other(tmp_path_factory, angles, seed):
    rng = np.random.default_rng(seed)
    linear = Rotation.from_euler("xyz", angles, degrees=True).as_matrix() @ np.diag(rng.uniform(0.3, 8, 3))
    volume = Volume.from_array(
        rng.integers(-1000, 2000, (2, 3, 4)), affine=affine_of(linear, rng.uniform(-500, 500, 3))
    )
    path = tmp_path_factory.mktemp("law") / "x.mha"
    write_labels(path, np.zeros((2, 3, 4), np.uint8), like=volume)
    np.testing.assert_allclose(read_volume(path).affine, volume.affine, atol=1e-6)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_a_probability_reads_as_zero_to_one(tmp_path, suffix):
    volume = Volume.from_array(smooth_ct((7, 9, 11)), affine=AFFINES["oblique"])
    scaled = np.arange(7 * 9 * 11, dtype=np.uint16).reshape(7, 9, 11).astype(np.uint8)
    path = tmp_path / f"p{suffix}"
    write_probability(path, scaled, like=volume)
    if "nii" in suffix:
        assert nib.load(path).get_data_dtype() == np.uint8
    np.testing.assert_allclose(read_volume(path).array, scaled / 255, atol=1e-6)
    np.testing.assert_allclose(read_volume(path).affine, volume.affine, atol=1e-5)


def test_damage_is_one_clear_line(tmp_path):
    write_ct(tmp_path / "a.nii.gz", shape=(20, 20, 20))
    image = SimpleITK.ReadImage(str(tmp_path / "a.nii.gz"))
    for name in ("a.nrrd", "a.mha"):
        SimpleITK.WriteImage(image, str(tmp_path / name))
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[: len(data) // 2])
        with pytest.raises(ImageError, match=rf"{name}: the file is truncated; received .*Check that it is"):
            read_volume(tmp_path / name)
    (tmp_path / "text.nrrd").write_text("no image")
    with pytest.raises(ImageError, match="cannot be read"):
        read_volume(tmp_path / "text.nrrd")
    with pytest.raises(ImageError, match="does not exist"):
        read_volume(tmp_path / "none.mha")
    (tmp_path / "d.mha").mkdir()
    with pytest.raises(ImageError, match="is a folder"):
        read_volume(tmp_path / "d.mha")
    header = (
        "ObjectType = Image\nNDims = 3\nDimSize = {}\nElementType = MET_SHORT\nElementDataFile = LOCAL\nx"
    )
    (tmp_path / "huge.mha").write_text(header.format("20000 20000 20000"))
    with pytest.raises(ImageError, match="size is implausible"):
        read_volume(tmp_path / "huge.mha")
    (tmp_path / "large.mha").write_text(header.format("1000 1000 1000"))
    with pytest.raises(ImageError, match=r"is truncated; received 1 bytes"):
        read_volume(tmp_path / "large.mha")
    (tmp_path / "large.mhd").write_text(header.format("1000 1000 1000").replace("LOCAL\nx", "large.raw"))
    (tmp_path / "large.raw").write_bytes(bytes(500))
    with pytest.raises(ImageError, match=r"is truncated; received 500 bytes"):
        read_volume(tmp_path / "large.mhd")
    (tmp_path / "lost.mhd").write_text(header.format("4 4 4").replace("LOCAL\nx", "none.raw"))
    with pytest.raises(ImageError, match=r"lost\.mhd cannot be read"):
        read_volume(tmp_path / "lost.mhd")
    SimpleITK.WriteImage(SimpleITK.Image([4, 4, 4], SimpleITK.sitkVectorUInt8, 3), str(tmp_path / "rgb.nrrd"))
    with pytest.raises(ImageError, match="not real numbers; received vector of 8-bit"):
        read_volume(tmp_path / "rgb.nrrd")
    SimpleITK.WriteImage(SimpleITK.Image([4, 4], SimpleITK.sitkInt16), str(tmp_path / "flat.mha"))
    with pytest.raises(ImageError, match=r"flat\.mha: the image is not three-dimensional"):
        read_volume(tmp_path / "flat.mha")
    nan = SimpleITK.GetImageFromArray(np.full((3, 3, 3), np.nan, np.float32))
    SimpleITK.WriteImage(nan, str(tmp_path / "nan.mha"))
    with pytest.raises(ImageError, match=r"nan\.mha: the image has voxels that are not finite"):
        read_volume(tmp_path / "nan.mha")


@pytest.fixture
def noisy():
    """Return voxels that hardly compress: a flipped bit keeps their number and a well-formed stream."""
    voxels = np.random.default_rng(0).integers(-1000, 2000, (9, 8, 7)).astype(np.int16)
    return SimpleITK.GetImageFromArray(voxels)


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha", "a.mhd"])
def test_a_flipped_bit_in_compressed_voxels_is_seen(tmp_path, noisy, name):
    """ITK does not detect it and returns wrong voxels or uninitialised memory."""
    path = tmp_path / name
    SimpleITK.WriteImage(noisy, str(path), True)
    np.testing.assert_array_equal(read_volume(path).array, SimpleITK.GetArrayFromImage(noisy).T)
    stored = tmp_path / "a.zraw" if name == "a.mhd" else path
    data = bytearray(stored.read_bytes())
    for place in (len(data) - 1, len(data) - 300, len(data) - 500):
        stored.write_bytes(data[:place] + bytes([data[place] ^ 16]) + data[place + 1 :])
        with pytest.raises(ImageError, match=rf"{name} is damaged.*Check that it is complete"):
            read_volume(path)
    stored.write_bytes(data[:-3])
    with pytest.raises(ImageError, match=rf"{name} is damaged or truncated|{name} cannot be read"):
        read_volume(path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ElementDataFile": "LIST"}, "are in several files; received 'LIST'"),
        ({"ElementDataFile": "a%03d.raw 1 7 1"}, "several files"),
        ({"ElementDataFile": "none.raw"}, "cannot be read; received no file none.raw"),
        ({"ElementDataFile": "/dev/zero"}, "the voxels are in another folder; received '/dev/zero'"),
        ({"ElementDataFile": "../a.raw"}, "the voxels are in another folder"),
        ({"CompressedData": "True"}, "(is damaged or truncated; received .*incorrect header check)"),
        ({"ElementType": "MET_ASCII_CHAR"}, "not real numbers; received MET_ASCII_CHAR"),
        ({"ElementType": "MET_STRING"}, "not real numbers; received MET_STRING"),
        (
            {"CompressedData": "True", "HeaderSize": "9"},
            "bytes before compressed voxels are not supported; received HeaderSize: 9",
        ),
    ],
)
def test_a_metaimage_header_that_itk_would_believe(tmp_path, noisy, changes, message):
    path = tmp_path / "a.mhd"
    SimpleITK.WriteImage(noisy, str(path), False)
    fields = dict(line.split(" = ") for line in path.read_text().splitlines())
    last = {"ElementDataFile": fields.pop("ElementDataFile")}
    path.write_text("".join(f"{k} = {v}\n" for k, v in (fields | last).items()))
    read_volume(path)
    last |= {k: v for k, v in changes.items() if k in last}
    fields |= {k: v for k, v in changes.items() if k not in last}
    path.write_text("".join(f"{k} = {v}\n" for k, v in (fields | last).items()))
    with pytest.raises(ImageError, match=message):
        read_volume(path)


def test_nrrd_voxels_beside_their_header(tmp_path, noisy):
    SimpleITK.WriteImage(noisy, str(tmp_path / "a.nrrd"), True)
    header, _, voxels = (tmp_path / "a.nrrd").read_bytes().partition(b"\n\n")
    (tmp_path / "b.raw.gz").write_bytes(voxels)
    path = tmp_path / "b.nrrd"
    path.write_bytes(header + b"\ndata file: b.raw.gz\n\n")
    np.testing.assert_array_equal(read_volume(path).array, SimpleITK.GetArrayFromImage(noisy).T)
    (tmp_path / "b.raw.gz").write_bytes(voxels[:-5] + b"12345")
    with pytest.raises(ImageError, match=r"b\.nrrd is damaged"):
        read_volume(path)
    path.write_bytes(header + b"\nline skip: 1\n\n" + voxels)
    with pytest.raises(ImageError, match="compressed voxels are not supported; received line skip: 1"):
        read_volume(path)


def test_one_volume_in_four_dimensions_is_read(tmp_path):
    SimpleITK.WriteImage(SimpleITK.Image([4, 5, 6, 1], SimpleITK.sitkInt16), str(tmp_path / "a.nrrd"))
    assert read_volume(tmp_path / "a.nrrd").shape == (4, 5, 6)
    SimpleITK.WriteImage(SimpleITK.Image([4, 5, 6, 2], SimpleITK.sitkInt16), str(tmp_path / "b.nrrd"))
    with pytest.raises(ImageError, match="not three-dimensional"):
        read_volume(tmp_path / "b.nrrd")


def test_without_simpleitk_the_extra_is_named(tmp_path, monkeypatch, ct):
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    volume = read_volume(ct)  # NIfTI needs none of it
    for attempt in (
        lambda: check_format(tmp_path / "a.mha", write=True),
        lambda: write_labels(tmp_path / "a.mha", np.zeros(volume.shape, np.uint8), like=volume),
    ):
        with pytest.raises(ImageError, match=r'needs SimpleITK.*"gcis\[simpleitk\]"'):
            attempt()
    check_format(ct)
    check_format(ct, write=True)


def test_what_is_only_read_is_not_written(tmp_path, ct):
    with pytest.raises(OutputError, match="read-only format"):
        check_format(tmp_path / "a.mhd", write=True)
    with pytest.raises(ImageError, match="differ in shape"):
        write_labels(tmp_path / "a.mha", np.zeros((1, 1, 1), np.uint8), like=read_volume(ct))
    assert not (tmp_path / "a.mha").exists()


def test_suffixes_and_stems(tmp_path):
    for name, expected in {
        "a.b.nii.gz": ("a.b", ".nii.gz"), "A.NII": ("A", ".nii"), "x.seg.nrrd": ("x.seg", ".nrrd"),
        "x.MHA": ("x", ".mha"), "x.dcm": ("x", ""), "x": ("x", ""),
    }.items():  # fmt: skip
        assert (stem(tmp_path / name), suffix_of(tmp_path / name)) == expected


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd", ".mhd", ".nii"])
def test_voxels_of_one_value_are_no_ct_but_may_be_labels(tmp_path, monkeypatch, suffix):
    monkeypatch.setattr(formats, "_SUSPICIOUS_BYTES", 1 << 20)
    path = tmp_path / f"a{suffix}"
    array = np.zeros((128, 128, 64), np.int16)
    if suffix.startswith(".nii"):
        nib.save(nib.Nifti1Image(array, np.eye(4)), path)
    else:
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(array.T), str(path), useCompression=True)
    monkeypatch.setattr(formats, "_MOST_SHRINK", 50)
    if suffix == ".nii":
        formats.check_plausible(path)
    else:
        with pytest.raises(ImageError, match="too small for a CT of its size; received 1 MiB that"):
            formats.check_plausible(path)
    assert not read_volume(path).array.any()
    noise = np.random.default_rng(0).integers(-1000, 1000, array.shape).astype(np.int16)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(noise), str(tmp_path / "ct.mhd"), useCompression=True)
    formats.check_plausible(tmp_path / "ct.mhd")  # a header of some hundred bytes, and the voxels beside it


HEADER = """ObjectType = Image
NDims = 3
BinaryData = True
BinaryDataByteOrderMSB = False
DimSize = 2 2 2
ElementType = MET_SHORT
ElementDataFile = LOCAL
"""
READ = "import sys; from gcis_runtime import read_volume; print(read_volume(sys.argv[1]).shape)"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("NDims = 3", "NDims = 3", "(2, 2, 2)"),
        ("NDims = 3", "NDims = 83", "damaged header; received NDims = '83'"),
        ("NDims = 3", "NDims = -3", "damaged header; received NDims = '-3'"),
        ("NDims = 3", "NDims = 99999999999999999999", "damaged header; received NDims = '9"),
        ("ObjectType = Image", f"ObjectType = {'Image' * 999}", "damaged header; received 5005 characters"),
        (
            "ObjectType = Image",
            f"ObjectType = Image\n{'Comment' * 99} = 1",
            "damaged header; received 694 char",
        ),
    ],
)
def test_a_metaimage_header_cannot_end_the_process(tmp_path, old, new, said):
    """ITK writes beyond its arrays if a header has too many axes or too long strings."""
    path = tmp_path / "a.mha"
    path.write_bytes(HEADER.replace(old, new).encode() + bytes(16))
    done = subprocess.run(
        [sys.executable, "-c", READ, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode in {0, 1}  # not a signal
    assert said in done.stdout + done.stderr


def test_long_texts_that_other_programs_keep_in_a_metaimage_are_left_alone(tmp_path):
    image = SimpleITK.GetImageFromArray(smooth_ct((6, 5, 4)).T)
    image.SetMetaData("0008|103e", "a description " * 100)
    SimpleITK.WriteImage(image, str(tmp_path / "a.mha"))
    assert b"a description " * 100 in (tmp_path / "a.mha").read_bytes()
    assert read_volume(tmp_path / "a.mha").shape == (6, 5, 4)
