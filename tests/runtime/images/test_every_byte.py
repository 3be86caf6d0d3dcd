"""Test that every byte of an image file is accounted for, in pairs and in mutated headers too."""

from __future__ import annotations

import gzip

import nibabel as nib
import numpy as np
import pytest

from gcis_runtime import read_volume, write_labels
from gcis_runtime.errors import ImageError
from tests.support.image_headers import AFFINE, SHAPE, edit, save


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha", "a.mhd", "a.nii", "a.hdr"])
@pytest.mark.parametrize("packed", [False, True])
def test_bytes_after_the_last_voxel_are_a_note(tmp_path, image, voxels, name, packed):
    """They also remain if the header states fewer voxels than the file has."""
    if "a.n" in name and packed:
        pytest.skip("gzip data end with their checksum; what follows is an error or another part")
    if name == "a.hdr":
        nib.save(nib.Nifti1Pair(voxels, AFFINE), tmp_path / name)
    else:
        save(tmp_path / name, image, packed=packed)
    assert read_volume(tmp_path / name).notes == ()
    beside = {"a.mhd": "a.zraw" if packed else "a.raw", "a.hdr": "a.img"}
    with (tmp_path / beside.get(name, name)).open("ab") as file:
        file.write(bytes(5))
    volume = read_volume(tmp_path / name)
    assert volume.notes == ("the file continues for 5 bytes after its last voxel: is the size correct?",)
    np.testing.assert_array_equal(volume.array, voxels)


def test_an_underscore_in_text_voxels_is_damage(tmp_path, image):
    path = save(tmp_path / "a.mha", image, packed=False)
    header = edit(path, rb"^BinaryData = True", b"BinaryData = False").read_bytes().partition(b"LOCAL\n")[0]
    path.write_bytes(header + b"LOCAL\n" + b" ".join([b"1_0", *[b"7"] * (9 * 8 * 7 - 1)]))
    with pytest.raises(ImageError, match="underscore"):
        read_volume(path)


@pytest.mark.parametrize("packed", [(), (".img",), (".hdr", ".img")])
@pytest.mark.parametrize("opened", [".hdr", ".img"])
def test_a_compressed_pair_is_read_by_either_name(tmp_path, voxels, packed, opened):
    nib.save(nib.Nifti1Pair(voxels, AFFINE), tmp_path / "a.hdr")
    for suffix in packed:
        data = (tmp_path / f"a{suffix}").read_bytes()
        (tmp_path / f"a{suffix}").unlink()
        (tmp_path / f"a{suffix}.gz").write_bytes(gzip.compress(data))
    name = f"a{opened}.gz" if opened in packed else f"a{opened}"
    np.testing.assert_array_equal(read_volume(tmp_path / name).array, voxels)
    other = {".hdr": "img", ".img": "hdr"}[opened]
    (tmp_path / (f"a.{other}.gz" if f".{other}" in packed else f"a.{other}")).unlink()
    with pytest.raises(ImageError, match=rf"expected a\.{other} beside it"):
        read_volume(tmp_path / name)


def test_voxels_cannot_begin_inside_a_later_extension(tmp_path, voxels):
    nifti = nib.Nifti1Image(voxels, AFFINE)
    for size in (20, 100):
        nifti.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * size))
    nib.save(nifti, tmp_path / "a.nii")
    assert read_volume(tmp_path / "a.nii").notes == ()
    data = bytearray((tmp_path / "a.nii").read_bytes())
    data[108:112] = np.float32(352 + 48).tobytes()  # in the second extension
    (tmp_path / "a.nii").write_bytes(data)
    with pytest.raises(ImageError, match=r"inside the header.*from 496"):
        read_volume(tmp_path / "a.nii")


@pytest.mark.parametrize("unit", ["meter", "micron"])
def test_a_wrong_unit_of_length_is_named_in_the_error(tmp_path, voxels, unit):
    nifti = nib.Nifti1Image(voxels, AFFINE)
    nifti.header.set_xyzt_units(unit)
    nib.save(nifti, tmp_path / "a.nii")
    with pytest.raises(ImageError, match=r"voxel size is implausible.*the header states lengths in m"):
        read_volume(tmp_path / "a.nii")


@pytest.mark.parametrize("opened", ["a.hdr", "a.img"])
def test_a_pair_of_header_and_voxels_is_read(tmp_path, voxels, opened):
    nib.save(nib.Nifti1Pair(voxels, AFFINE), tmp_path / "a.hdr")
    volume = read_volume(tmp_path / opened)
    np.testing.assert_array_equal(volume.array, voxels)
    write_labels(tmp_path / "l.nii.gz", np.ones(SHAPE, np.uint8), like=volume)
    np.testing.assert_allclose(read_volume(tmp_path / "l.nii.gz").affine, volume.affine)
    (tmp_path / "a.img").unlink()
    with pytest.raises(ImageError, match=r"header without voxels.*a\.img beside it"):
        read_volume(tmp_path / "a.hdr")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a.nrrd", "a.mha", "a.nii", "a.nii.gz", "a.nhdr", "a.mhd", "a.hdr"])
def test_mutated_headers_give_a_volume_or_one_line(tmp_path, image, voxels, name):
    """2,500 mutations per format; voxels of an accepted file are those of a second reading."""
    if name == "a.hdr":
        nib.save(nib.Nifti1Pair(voxels, AFFINE), tmp_path / name)
    else:
        save(tmp_path / name, image)
    data = (tmp_path / name).read_bytes()
    random = np.random.default_rng(7)
    limit = min(len(data), 420)
    for _ in range(2500):
        changed = bytearray(data)
        for place in random.integers(0, limit, random.integers(1, 4)):
            changed[place] = random.integers(0, 256)
        if random.random() < 0.2:
            changed = changed[: random.integers(0, len(changed))]
        (tmp_path / name).write_bytes(changed)
        try:
            one = read_volume(tmp_path / name)
        except ImageError as error:
            assert "\n" not in str(error)
            continue
        two = read_volume(tmp_path / name)
        np.testing.assert_array_equal(one.array, two.array)
