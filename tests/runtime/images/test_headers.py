"""Test headers and contents of image files: guessed numbers are notes, and all voxels are accounted for."""

from __future__ import annotations

import bz2
import gzip
import locale
import re
import zlib

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from gcis_runtime import read_volume, write_labels
from gcis_runtime.errors import ImageError
from tests.support.image_headers import AFFINE, SHAPE, SPACING, edit, save, single
from tests.support.process_state import comma_locale


@pytest.mark.parametrize("name", ["a.nrrd", "a.mha", "a.mhd", "a.nii.gz"])
def test_a_decimal_comma_of_the_process_changes_no_number(tmp_path, monkeypatch, image, name):
    path = save(tmp_path / name, image)
    expected = read_volume(path)
    monkeypatch.setenv("LOCPATH", str(tmp_path))
    before = locale.setlocale(locale.LC_NUMERIC)
    try:
        locale.setlocale(locale.LC_NUMERIC, comma_locale(tmp_path))
        assert locale.localeconv()["decimal_point"] == ","
        found = read_volume(path)
    finally:
        locale.setlocale(locale.LC_NUMERIC, before)
    np.testing.assert_array_equal(found.affine, expected.affine)
    np.testing.assert_array_equal(found.array, expected.array)


@pytest.mark.parametrize(
    ("unit", "factor"), [("mm", 1.0), ("meter", 1e-3), ("micron", 1e3), ("unknown", 1.0)]
)
def test_units_of_nifti_are_honoured_as_in_itk(tmp_path, voxels, unit, factor):
    nifti = nib.Nifti1Image(voxels, np.diag([*(factor * s for s in SPACING), 1]))
    nifti.header.set_xyzt_units(unit)
    nib.save(nifti, tmp_path / "a.nii.gz")
    volume = read_volume(tmp_path / "a.nii.gz")
    np.testing.assert_allclose(volume.spacing, SPACING, rtol=1e-5)
    np.testing.assert_allclose(
        SimpleITK.ReadImage(str(tmp_path / "a.nii.gz")).GetSpacing(), volume.spacing, rtol=1e-5
    )
    assert bool(volume.notes) == (factor != 1.0)
    write_labels(tmp_path / "l.nii.gz", np.ones(SHAPE, np.uint8), like=volume)
    np.testing.assert_allclose(read_volume(tmp_path / "l.nii.gz").affine, volume.affine, rtol=1e-5)
    np.testing.assert_array_equal(nib.load(tmp_path / "l.nii.gz").affine, nifti.affine.astype(np.float32))


def test_an_invalid_sform_leaves_the_qform(tmp_path, voxels):
    zero = {f"srow_{axis}": 0 for axis in "xyz"}
    path = single(tmp_path / "a.nii", voxels, AFFINE, **zero)
    volume = read_volume(path)
    np.testing.assert_allclose(volume.affine, AFFINE, atol=1e-5)
    assert volume.notes == ("the sform is invalid: the qform is used",)
    with pytest.raises(ImageError, match="voxel size is implausible"):
        read_volume(single(tmp_path / "b.nii", voxels, AFFINE, **zero, qform_code=0))


@pytest.mark.parametrize("offset", [0, 8, 348, 351, 352.5])
def test_voxels_cannot_begin_inside_the_header(tmp_path, voxels, offset):
    path = single(tmp_path / "a.nii", voxels, AFFINE, vox_offset=offset)
    with pytest.raises(ImageError, match=r"vox_offset is implausible; received .*inside the header"):
        read_volume(path)


def test_voxels_cannot_begin_inside_an_extension(tmp_path, voxels):
    nifti = nib.Nifti1Image(voxels, AFFINE)
    nifti.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"x" * 100))
    nib.save(nifti, tmp_path / "a.nii")
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii").array, voxels)
    data = bytearray((tmp_path / "a.nii").read_bytes())
    data[108:112] = np.float32(352).tobytes()
    (tmp_path / "a.nii").write_bytes(data)
    with pytest.raises(ImageError, match=r"inside the header"):
        read_volume(tmp_path / "a.nii")


@pytest.mark.parametrize("stated", [b"0", b"64", b"700", b"999999"])
def test_the_stated_length_of_compressed_voxels_must_be_right(tmp_path, image, stated):
    path = save(tmp_path / "a.mha", image)
    read_volume(path)
    edit(path, rb"CompressedDataSize = \d+", b"CompressedDataSize = " + stated)
    with pytest.raises(ImageError, match=r"a\.mha.*(damaged or truncated|CompressedDataSize differs)"):
        read_volume(path)


GUESSES = {
    "no spacing": ("a.mha", rb"^ElementSpacing.*\n", b"", "ElementSpacing: a voxel size of 1 mm is a guess"),
    "misspelt": ("a.mha", rb"ElementSpacing", b"ElementSpacinf", "voxel size of 1 mm is a guess"),
    "size": ("a.mha", rb"^ElementSpacing", b"ElementSize = 3 3 3\nElementSpacing", "ElementSpacing is used"),
    "no offset": ("a.mha", rb"^Offset.*\n", b"", "position of the image is a guess"),
    "no matrix": ("a.mha", rb"^TransformMatrix.*\n", b"", "orientation is a guess"),
    "mha cm": ("a.mha", rb"^NDims", b"DistanceUnits = cm\nNDims", "lengths in cm: converted to mm"),
    "no directions": ("a.nrrd", rb"^space directions.*\n", b"", "no voxel size: 1 mm is a guess"),
    "no origin": ("a.nrrd", rb"^space origin.*\n", b"", "position of the image is a guess"),
    "no space": ("a.nrrd", rb"^space: .*\n", b"space dimension: 3\n", "orientation is a guess"),
    "scanner": ("a.nrrd", rb"^space: .*\n", b"space: scanner-xyz\n", "orientation is a guess"),
    "nrrd cm": ("a.nrrd", rb"^kinds", b'space units: "cm" "cm" "cm"\nkinds', "converted to mm"),
}


@pytest.mark.parametrize("case", GUESSES)
def test_a_guessed_or_converted_number_is_a_note(tmp_path, image, case):
    name, pattern, new, note = GUESSES[case]
    assert read_volume(save(tmp_path / name, image)).notes == ()
    volume = read_volume(edit(tmp_path / name, pattern, new))
    assert any(note in text for text in volume.notes)
    if case.endswith("cm"):
        np.testing.assert_allclose(volume.spacing, np.multiply(SPACING, 10), rtol=1e-6)


REFUSED = {
    "negative": ("a.mha", rb"^(ElementSpacing = \S+ \S+) .*", rb"\1 -2.5", "voxel sizes above 0"),
    "zero": ("a.mha", rb"^(ElementSpacing = \S+ \S+) .*", rb"\1 0", "voxel sizes above 0"),
    "nan offset": ("a.mha", rb"^Offset = .*", b"Offset = nan 5 5", "3 finite numbers"),
    "comma": ("a.mha", rb"^Offset = .*", b"Offset = 1,5 5 5", "3 finite numbers"),
    "unit": ("a.mha", rb"^NDims", b"DistanceUnits = inch\nNDims", "mm, cm, m or um"),
    "twice": ("a.mha", rb"^NDims", b"DimSize = 1 1 1\nNDims", "DimSize twice"),
    "slope": ("a.mha", rb"^NDims", b"ElementToIntensityFunctionSlope = 2\nNDims", "voxels in HU"),
    "nan direction": ("a.nrrd", rb"^space directions: \(", b"space directions: (nan", "finite numbers"),
    "two vectors": ("a.nrrd", rb"^(space directions:) \(.*?\)", rb"\1", "3 vectors"),
    "decimal commas": ("a.nrrd", rb"^space origin: .*", b"space origin: (-1,5,2,5,3)", "three numbers"),
    "comma vector": ("a.nrrd", rb"^(space directions:) \(.*?\)", rb"\1 (0,7,0,0)", "three numbers"),
    "underscore": ("a.nrrd", rb"^space origin: .*", b"space origin: (1_0,2,3)", "finite numbers"),
    "other digits": ("a.mha", rb"^Offset = .*", "Offset = \uff11 5 5".encode(), "finite numbers"),
    "far away": ("a.mha", rb"^Offset = .*", b"Offset = 1e30 5 5", "position.*implausible"),
    "nan origin": ("a.nrrd", rb"^space origin: .*", b"space origin: (0,nan,0)", "finite numbers"),
    "nrrd unit": ("a.nrrd", rb"^kinds", b'space units: "inch" "mm" "mm"\nkinds', "mm, cm, m or um"),
    "endian": ("a.nrrd", rb"^endian: .*\n", b"", "little or big"),
    "sizes": ("a.nrrd", rb"^sizes: .*", b"sizes: 9 8 -7", "whole numbers of voxels"),
    "fewer": ("a.nrrd", rb"^sizes: .*", b"sizes: 9 8 90", "truncated"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_an_invalid_number_is_an_error(tmp_path, image, case):
    name, pattern, new, message = REFUSED[case]
    with pytest.raises(ImageError, match=message) as caught:
        read_volume(edit(save(tmp_path / name, image), pattern, new))
    assert str(tmp_path / name) in str(caught.value)


def test_the_space_of_a_nrrd_is_honoured(tmp_path, image):
    lps = read_volume(save(tmp_path / "a.nrrd", image)).affine
    for space, flips in (("right-anterior-superior", (-1, -1, 1, 1)), ("LAS", (1, -1, 1, 1))):
        path = edit(save(tmp_path / "a.nrrd", image), rb"^space: .*", f"space: {space}".encode())
        np.testing.assert_allclose(read_volume(path).affine, np.diag(flips) @ lps)


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2", "text", "hex", "two members", "zlib"])
@pytest.mark.parametrize("suffix", [".nrrd", ".nhdr"])
def test_every_encoding_of_nrrd_is_read(tmp_path, image, voxels, encoding, suffix):
    header, _, raw = save(tmp_path / "o.nrrd", image, packed=False).read_bytes().partition(b"\n\n")

    data = {
        "raw": raw,
        "gzip": gzip.compress(raw),
        "bzip2": bz2.compress(raw),
        "text": " ".join(map(str, voxels.ravel(order="F"))).encode(),
        "hex": raw.hex().encode(),
        "two members": gzip.compress(raw[:500]) + gzip.compress(raw[500:]),
        "zlib": zlib.compress(raw),
    }[encoding]
    name = {"two members": "gzip", "zlib": "gzip"}.get(encoding, encoding).encode()
    header = re.sub(rb"encoding: .*", b"encoding: " + name, header)
    path = tmp_path / f"a{suffix}"
    if suffix == ".nhdr":
        (tmp_path / "a.raw").write_bytes(data)
        path.write_bytes(header + b"\ndata file: a.raw\n")
    else:
        path.write_bytes(header + b"\n\n" + data)
    np.testing.assert_array_equal(read_volume(path).array, voxels)
    stored = tmp_path / "a.raw" if suffix == ".nhdr" else path
    stored.write_bytes(stored.read_bytes()[:-40])
    with pytest.raises(ImageError, match=r"truncated|damaged"):
        read_volume(path)


def test_bzip2_is_read_and_its_checksum_verified(tmp_path, voxels):
    nib.save(nib.Nifti1Image(voxels, AFFINE), tmp_path / "a.nii")
    data = bytearray(bz2.compress((tmp_path / "a.nii").read_bytes()))
    (tmp_path / "a.nii.bz2").write_bytes(data)
    np.testing.assert_array_equal(read_volume(tmp_path / "a.nii.bz2").array, voxels)
    data[len(data) // 2] ^= 4
    (tmp_path / "a.nii.bz2").write_bytes(data)
    with pytest.raises(ImageError, match="damaged"):
        read_volume(tmp_path / "a.nii.bz2")
