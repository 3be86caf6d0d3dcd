"""Test that the file which a header names for its voxels is found, followed and refused where it must be."""

from __future__ import annotations

import os

import nibabel as nib
import numpy as np
import pytest

from gcis_runtime.errors import ImageError
from gcis_runtime.images.other_file import file_stamp, other_file, refuse_other_file
from gcis_runtime.runs.options import RunOptions
from gcis_runtime.runs.resume import run_key
from tests.support.fake_session import threshold_segmenter
from tests.support.image_headers import AFFINE, edit, save

BESIDE = {"a.nhdr": "a.raw", "a.mhd": "a.raw", "a.hdr": "a.img"}


def write(path, image, voxels):
    if path.suffix == ".hdr":
        nib.save(nib.Nifti1Pair(voxels, AFFINE), path)
    else:
        save(path, image, packed=False)
    return path


@pytest.mark.parametrize("name", BESIDE)
def test_other_voxels_beside_a_header_are_another_image(tmp_path, image, voxels, name):
    """Neither `--resume` nor the cache of training takes results of the earlier voxels."""
    path = write(tmp_path / name, image, voxels)
    assert other_file(path) == tmp_path / BESIDE[name]
    before, key = file_stamp(path), run_key(threshold_segmenter().identity, path, RunOptions())
    with (tmp_path / BESIDE[name]).open("r+b") as file:
        file.write(np.int16(7).tobytes())
    os.utime(tmp_path / BESIDE[name], ns=(1 << 61, 1 << 61))
    assert file_stamp(path) != before
    assert run_key(threshold_segmenter().identity, path, RunOptions()) != key
    with pytest.raises(ImageError, match="one file"):
        refuse_other_file(path)


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha", "a.nii", "a.nii.gz"])
def test_a_single_file_is_its_own(tmp_path, image, name):
    path = save(tmp_path / name, image)
    assert other_file(path) is None
    refuse_other_file(path)
    assert file_stamp(path) == (path.stat().st_size, path.stat().st_mtime_ns)


@pytest.mark.parametrize(
    ("name", "pattern", "new"),
    [
        ("a.nrrd", rb"^kinds", b"data file: /etc/passwd\nkinds"),
        ("a.nrrd", rb"^kinds", b"DataFile : x.raw\nkinds"),
        ("a.nrrd", rb"^kinds", b"data file: LIST\nkinds"),
        ("a.mha", rb"^ElementDataFile = LOCAL", b"ElementDataFile = /etc/passwd"),
        ("a.mha", rb"^ElementDataFile = LOCAL", b"ElementDataFile=x%03d.raw 1 9 1"),
    ],
)
def test_every_way_to_name_another_file_is_found(tmp_path, image, name, pattern, new):
    with pytest.raises(ImageError, match="names another file"):
        refuse_other_file(edit(save(tmp_path / name, image), pattern, new))


def test_voxels_that_cannot_be_read_are_left_to_the_reader(tmp_path):
    for name in ("none.mhd", "none.hdr"):
        assert other_file(tmp_path / name) is None
    (tmp_path / "none.mhd").write_bytes(b"x" * (2 << 20))
    assert other_file(tmp_path / "none.mhd") is None
