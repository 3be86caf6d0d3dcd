"""Test that files that are not images are recognised by their content and named."""

from __future__ import annotations

import gzip

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from gcis_runtime import read_volume
from gcis_runtime.errors import ImageError

CONTENTS = {
    "empty": (b"", "is empty; received 0 bytes"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "git-LFS.*git lfs pull"),
    "annex": (b"/annex/objects/SHA256E-s9--0.nii.gz\n", "git-annex.*git annex get"),
    "html": (b"<!DOCTYPE html><html><body>404</body></html>", "HTML or XML page"),
    "xml": (b'\n<?xml version="1.0"?><Error>AccessDenied</Error>', "HTML or XML page"),
    "dicom": (bytes(128) + b"DICM" + bytes(200), "a DICOM file.*dcm2niix"),
    "bare dicom": (b"\x08\x00\x05\x00CS\x0a\x00ISO_IR 100" + bytes(200), "a DICOM file"),
    "zip": (b"PK\x03\x04" + bytes(400), "a ZIP archive"),
    "html in UTF-16": ("<!DOCTYPE html><html>".encode("utf-16"), "HTML or XML page"),
    "json": (b'{"message": "not found"}', "JSON text"),
    "tar": (b"a.nii" + bytes(252) + b"ustar" + bytes(300), "a tar archive"),
    "rar": (b"Rar!\x1a\x07\x00" + bytes(400), "a RAR archive"),
    "lz4": (b"\x04\x22\x4d\x18" + bytes(400), "LZ4 data"),
    "numpy": (b"\x93NUMPY\x01\x00" + bytes(400), "a NumPy array"),
    "gzip of gzip": (gzip.compress(gzip.compress(b"x" * 600)), "gzip data"),
    "gzip of html": (gzip.compress(b"<html>" + b"x" * 600), "HTML or XML page"),
}


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.nrrd", "a.mha"])
@pytest.mark.parametrize("case", CONTENTS)
def test_other_contents_are_named(tmp_path, case, name):
    data, message = CONTENTS[case]
    if "nii" not in name and case.startswith("gzip"):
        message = "gzip data"  # only NIfTI files are compressed as a whole
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ImageError, match=message):
        read_volume(tmp_path / name)


def test_a_dicom_folder_is_named(tmp_path):
    (tmp_path / "IM0001").write_bytes(CONTENTS["dicom"][0])
    with pytest.raises(ImageError, match=r"received a folder with DICOM files.*dcm2niix"):
        read_volume(tmp_path)


@pytest.mark.parametrize("case", ["empty", "lfs", "annex", "html", "html in UTF-16", "json"])
@pytest.mark.parametrize("name", ["a.nhdr", "a.mhd", "a.hdr"])
def test_the_voxels_beside_a_header_are_recognised_too(tmp_path, name, case):
    if name == "a.hdr":
        nib.save(nib.Nifti1Pair(np.ones((9, 8, 7), np.int16), np.eye(4)), tmp_path / name)
        voxels = tmp_path / "a.img"
    else:
        image = SimpleITK.GetImageFromArray(np.ones((7, 8, 9), np.int16))
        SimpleITK.WriteImage(image, str(tmp_path / name), False)
        voxels = tmp_path / "a.raw"
    read_volume(tmp_path / name)
    data, message = CONTENTS[case]
    voxels.write_bytes(data)
    with pytest.raises(ImageError, match=message) as caught:
        read_volume(tmp_path / name)
    assert voxels.name in str(caught.value)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("../.git/annex/objects/aa/bb/SHA256E-s9--0.nii.gz", "git annex get"),
        ("gone.nii.gz", "a link to gone.nii.gz"),
    ],
)
def test_a_link_whose_target_is_missing_is_named(tmp_path, target, message):
    (tmp_path / "a.nii.gz").symlink_to(target)
    with pytest.raises(ImageError, match=f"link to a file that does not exist.*{message}"):
        read_volume(tmp_path / "a.nii.gz")
