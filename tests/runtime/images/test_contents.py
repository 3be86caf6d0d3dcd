"""Test that files that are not images are recognised by their content and named."""

from __future__ import annotations

import gzip

import pytest

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
    "gzip of html": (gzip.compress(b"<html>" + b"x" * 600), "HTML or XML page"),
}


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.nrrd", "a.mha"])
@pytest.mark.parametrize("case", CONTENTS)
def test_other_contents_are_named(tmp_path, case, name):
    data, message = CONTENTS[case]
    if case.startswith("gzip") and "nii" not in name:
        pytest.skip("only NIfTI files are compressed as a whole")
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ImageError, match=message):
        read_volume(tmp_path / name)


def test_a_dicom_folder_is_named(tmp_path):
    (tmp_path / "IM0001").write_bytes(CONTENTS["dicom"][0])
    with pytest.raises(ImageError, match=r"received a folder with DICOM files.*dcm2niix"):
        read_volume(tmp_path)
