"""Test gzip through isal and through zlib: equal bytes and equal errors."""

from __future__ import annotations

import gzip
import io
import sys

import numpy as np
import pytest

from gcis_runtime.errors import ImageError
from gcis_runtime.images.nifti import read_volume, write_labels
from gcis_runtime.images.volume import Volume
from gcis_runtime.system import gzip_stream as gzipped

VOLUME = Volume(array=np.arange(60, dtype=np.int16).reshape(3, 4, 5), affine=np.eye(4))


@pytest.fixture(params=["isal", "zlib"])
def engine(request, monkeypatch):
    if request.param == "zlib":
        monkeypatch.setitem(sys.modules, "isal.igzip", None)  # what an import then raises is ImportError
    assert gzipped.engine() == request.param
    return request.param


def packed(data):
    raw = io.BytesIO()
    with gzipped.open_writer(raw) as stream:
        stream.write(data)
    return raw.getvalue()


def test_what_is_written_is_gzip_and_reads_back(engine):
    data = np.random.default_rng(0).integers(0, 5, 1 << 20).astype(np.uint8).tobytes()
    file = packed(data)
    assert len(file) < len(data) / 2
    assert gzip.decompress(file) == data
    with gzipped.open_reader(io.BytesIO(file)) as stream:
        assert stream.read() == data


def test_equal_data_make_equal_files_without_name_or_time(engine):
    assert packed(b"labels") == packed(b"labels")
    assert packed(b"labels")[3:8] == bytes(5)  # no flags, hence no name; time 0


def test_damage_is_an_error_of_the_family(engine, tmp_path):
    path = tmp_path / "x.nii.gz"
    write_labels(path, np.ones((3, 4, 5), np.uint8), like=VOLUME)
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) - 12], whole[:-6] + bytes([whole[-6] ^ 1]) + whole[-5:]):
        path.write_bytes(damaged)
        with pytest.raises(ImageError, match="damaged or truncated"):
            read_volume(path)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_the_file_is_the_one_that_nibabel_would_write(tmp_path, name, dtype, monkeypatch):
    import nibabel as nib

    from gcis_runtime.images import nifti

    monkeypatch.setattr(nifti, "CHUNK", 40)  # several chunks
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    like = Volume(array=VOLUME.array, affine=np.diag([2.0, 3, 4, 1]), header=header)
    labels = np.asfortranarray(np.random.default_rng(0).integers(0, 200, (3, 4, 5)).astype(dtype))
    labels[0, 0, 0] = 300 if dtype is np.uint16 else 3
    write_labels(tmp_path / name, labels, like=like)
    image = nib.load(tmp_path / name)
    np.testing.assert_array_equal(np.asarray(image.dataobj), labels)
    np.testing.assert_array_equal(image.affine, like.affine)
    nib.save(nib.Nifti1Image(labels, like.affine, image.header), tmp_path / f"nibabel_{name}")
    ours, theirs = tmp_path / name, tmp_path / f"nibabel_{name}"
    read = gzip.decompress if name.endswith(".gz") else bytes
    assert read(ours.read_bytes()) == read(theirs.read_bytes())


def test_the_doctor_says_what_compresses(engine):
    from click.testing import CliRunner

    from gcis_runtime.cli.bundle import main

    text = CliRunner().invoke(main, ["doctor"]).stdout
    assert ["gzip", engine] in [line.split()[:2] for line in text.splitlines()]
    assert ("pip install isal" in text) == (engine == "zlib")
