"""Test that a series in any encoding gives the voxels and the affine of the volume it was made from."""

from __future__ import annotations

import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLSLossless,
    RLELossless,
)

from gcis_runtime.dicom.load import read_series
from gcis_runtime.dicom.options import DicomOptions
from gcis_runtime.dicom.pixels import AIR
from gcis_runtime.dicom.study import find_series, read_dicom
from gcis_runtime.errors import ImageError
from gcis_runtime.images.dicom_content import holds_dicom
from gcis_runtime.images.volume import Volume
from tests.support.dicom_series import Coding, enhanced_of, sheared, slices_of, write


def same(found: Volume, expected: Volume) -> bool:
    return (
        found.array.dtype == expected.array.dtype
        and np.array_equal(found.array, expected.array)
        and np.allclose(found.affine, expected.affine, atol=1e-6)
    )


@pytest.mark.parametrize(
    "syntax",
    [
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
        JPEGLSLossless,
        JPEG2000Lossless,
    ],
    ids=lambda s: s.name,
)
@pytest.mark.parametrize("signed", [False, True])
def test_every_transfer_syntax_gives_the_same_voxels(
    volume: Volume, tmp_path: Path, syntax: UID, signed: bool
) -> None:
    coding = Coding(
        syntax=syntax, signed=signed, bits=16 if signed else 12, intercepts=(0,) if signed else (-1024,)
    )
    folder = write(slices_of(volume, coding=coding), tmp_path / "s")
    assert holds_dicom(folder)
    assert same(read_dicom(folder), volume)


def test_names_order_and_slice_thickness_do_not_matter(volume: Volume, tmp_path: Path) -> None:
    slices = slices_of(volume)
    for k, ds in enumerate(slices):
        ds.InstanceNumber = (7 * k) % 9
    write(slices[::-1], tmp_path / "a" / "b", names=lambda k: f"IM{k}")
    assert same(read_dicom(tmp_path / "a"), volume)


def test_an_oblique_series_has_the_affine_of_the_volume(volume: Volume, tmp_path: Path) -> None:
    turn = np.eye(4)
    angle = np.radians(20)
    turn[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    oblique = Volume(array=volume.array, affine=turn @ volume.affine)
    assert same(read_dicom(write(slices_of(oblique), tmp_path)), oblique)


def test_feet_first_gives_the_same_voxels_at_the_same_places(volume: Volume, tmp_path: Path) -> None:
    flip = np.diag([1.0, 1.0, -1.0, 1.0])
    flip[2, 3] = volume.shape[2] - 1
    upside = Volume(array=volume.array[:, :, ::-1].copy(), affine=volume.affine @ flip)
    found = read_dicom(write(slices_of(upside), tmp_path))
    canonical = [nib.as_closest_canonical(nib.Nifti1Image(v.array, v.affine)) for v in (found, volume)]
    assert np.array_equal(canonical[0].get_fdata(), canonical[1].get_fdata())
    assert np.allclose(canonical[0].affine, canonical[1].affine, atol=1e-6)


def test_a_gantry_tilt_is_a_sheared_affine_with_a_note(volume: Volume, tmp_path: Path) -> None:
    tilted = sheared(volume, 18)
    found = read_dicom(write(slices_of(tilted), tmp_path))
    assert same(found, tilted)
    assert found.notes == ("gantry tilt of 18.0 degrees: the grid is sheared",)


def test_rescaling_differs_per_slice(volume: Volume, tmp_path: Path) -> None:
    coding = Coding(bits=16, slopes=(1, 0.5), intercepts=(-1024, -2000.5))
    found = read_dicom(write(slices_of(volume, coding=coding), tmp_path))
    assert found.array.dtype == np.float32 and np.abs(found.array - volume.array).max() <= 0.5
    assert np.array_equal(found.array[..., ::2], volume.array[..., ::2])


def test_padding_and_its_range_are_air(volume: Volume, tmp_path: Path) -> None:
    stored = volume.array + 1024  # 24 to 2523
    for name, last in (("one", None), ("range", 300)):
        more = {} if last is None else {"PixelPaddingRangeLimit": last}
        found = read_dicom(write(slices_of(volume, PixelPaddingValue=100, **more), tmp_path / name))
        padded = (stored >= 100) & (stored <= (last or 100))
        assert padded.any() and np.array_equal(found.array, np.where(padded, AIR, volume.array))


def test_bits_above_those_stored_are_ignored(volume: Volume, tmp_path: Path) -> None:
    slices = slices_of(volume)
    for ds in slices:
        ds.PixelData = (np.frombuffer(ds.PixelData, np.uint16) | 0xA000).tobytes()  # an overlay
    assert same(read_dicom(write(slices, tmp_path)), volume)


@pytest.mark.parametrize("localiser", [False, True])
def test_an_enhanced_file_in_any_frame_order(volume: Volume, tmp_path: Path, localiser: bool) -> None:
    assert same(read_dicom(write([enhanced_of(volume, localiser=localiser)], tmp_path)), volume)


def test_an_archive_is_read_without_unpacking(volume: Volume, tmp_path: Path) -> None:
    folder = write(slices_of(volume), tmp_path / "s")
    path = tmp_path / "study.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in folder.iterdir():
            archive.write(file, f"../../outside/{file.name}")
        archive.writestr("README.txt", "no DICOM")
    before = sorted(tmp_path.rglob("*"))
    found = read_dicom(path)
    assert same(found, volume) and "1 file left out: not a DICOM file" in found.notes
    assert sorted(tmp_path.rglob("*")) == before


def test_what_is_not_ct_is_left_out_with_a_note(volume: Volume, tmp_path: Path) -> None:
    write(slices_of(volume), tmp_path / "s")
    scout = slices_of(volume, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])[:1]
    capture = slices_of(volume, series=4, SOPClassUID="1.2.840.10008.5.1.4.1.1.7", Modality="OT")[:1]
    dose = slices_of(volume, series=5, SOPClassUID="1.2.840.10008.5.1.4.1.1.88.67", Modality="SR")[:2]
    write([*scout, *capture, *dose], tmp_path / "other")
    (tmp_path / "notes.txt").write_text("x")
    found = read_dicom(tmp_path)
    assert same(found, volume)
    assert sorted(found.notes) == [
        "1 file left out: Secondary Capture Image Storage",
        "1 file left out: localiser",
        "1 file left out: not a DICOM file",
        "2 files left out: X-Ray Radiation Dose SR Storage",
    ]


def test_several_series_are_listed_and_chosen_by_number_or_uid(volume: Volume, tmp_path: Path) -> None:
    write(slices_of(volume), tmp_path / "a")
    short = Volume(array=volume.array[..., :5], affine=volume.affine)
    write(slices_of(short, series=7), tmp_path / "b")
    with pytest.raises(ImageError) as error:
        read_dicom(tmp_path)
    text = str(error.value)
    assert "2 CT series" in text and "--series" in text and "--all-series" in text
    assert (
        "2: 'series 2', 9 slices, 1.5 x 2 mm, kernel B30f, UID 1.2.826" in text
        and "7: 'series 7', 5 sl" in text
    )
    assert read_dicom(tmp_path, series="7").shape[2] == 5
    uid = find_series([tmp_path], DicomOptions(series=("2",)))[0].uid
    assert same(read_dicom(tmp_path, series=uid), volume)
    with pytest.raises(ImageError, match="--series 3 names 0 of the 2 CT series"):
        read_dicom(tmp_path, series="3")
    assert len(find_series([tmp_path], DicomOptions(every=True))) == 2


def test_a_file_that_vanishes_or_changes_after_the_study_was_listed(volume: Volume, tmp_path: Path) -> None:
    folder = write(slices_of(volume), tmp_path)
    (series,) = find_series([folder], DicomOptions())
    next(folder.iterdir()).unlink()
    with pytest.raises(ImageError, match=r"file \d+ cannot be read any more; received No such file"):
        read_series(series)


def test_names_of_patients_do_not_appear(volume: Volume, tmp_path: Path) -> None:
    folder = write(
        slices_of(volume)[:4] + slices_of(volume)[5:], tmp_path, names=lambda k: f"Muster_Erika_{k}"
    )
    with pytest.raises(ImageError) as error:
        read_dicom(folder)
    assert "Muster" not in str(error.value)
