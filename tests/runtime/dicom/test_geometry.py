"""Test that slices that form no grid are refused with their positions, or interpolated if allowed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from gcis_runtime.dicom.study import read_dicom
from gcis_runtime.errors import ImageError
from gcis_runtime.images.volume import Volume
from tests.support.dicom_series import slices_of, write

Change = Callable[[list[Dataset]], list[Dataset]]


def without(*indices: int) -> Change:
    return lambda slices: [ds for k, ds in enumerate(slices) if k not in indices]


def moved(index: int, *, by: tuple[float, float, float]) -> Change:
    def change(slices: list[Dataset]) -> list[Dataset]:
        ds = slices[index]
        ds.ImagePositionPatient = [float(v) + d for v, d in zip(ds.ImagePositionPatient, by, strict=True)]
        return slices

    return change


def having(index: int, **attributes: object) -> Change:
    def change(slices: list[Dataset]) -> list[Dataset]:
        for name, value in attributes.items():
            if value is None:
                delattr(slices[index], name)
            else:
                setattr(slices[index], name, value)
        return slices

    return change


def repeated(index: int, **attributes: object) -> Change:
    def change(slices: list[Dataset]) -> list[Dataset]:
        other = having(0, **attributes)([copy.deepcopy(slices[index])])[0]
        other.SOPInstanceUID += ".9"
        return [*slices, other]

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            without(3),
            r"lacks 1 slice; received 6\.000 mm between -4\.00 and 2\.00 mm; expected slices 3\.000 mm",
        ),
        (without(3, 4, 6), r"lacks 3 slices; received 9\.000 mm between .* and .* mm; 6\.000 mm"),
        (moved(4, by=(0, 0, 1)), r"unevenly spaced; received 4\.000 mm between -1\.00 and 3\.00 mm"),
        (
            moved(4, by=(0, 0.5, 0)),
            r"shifted sideways; received the slice at 2\.00 mm \(instance 5, .*: 0\.500",
        ),
        (having(4, ImageOrientationPatient=[0, 1, 0, -1, 0, 0]), r"different orientation; received 8 slices"),
        (having(4, PixelSpacing=[1.6, 2]), r"different PixelSpacing"),
        (having(4, Rows=17, PixelData=b"\0" * 17 * 40 * 2), r"different size"),
        (having(4, FrameOfReferenceUID="1.2.3"), r"different frame of reference"),
        (having(4, ImagePositionPatient=None), r"has no valid ImagePositionPatient"),
        (having(4, ImagePositionPatient=[1, 2]), r"has no valid ImagePositionPatient"),
        (having(4, ImageOrientationPatient=[1, 0, 0, 0.5, 1, 0]), r"invalid ImageOrientationPatient"),
        (having(4, PixelSpacing=[0, 1]), r"has no valid PixelSpacing"),
        (having(4, RescaleSlope=None), r"has no valid RescaleSlope"),
        (having(4, RescaleSlope=0), r"has no valid RescaleSlope"),
        (having(4, RescaleIntercept=[-1024, 0]), r"has no valid RescaleIntercept"),
        (having(4, RescaleType="US"), r"not HU; received RescaleType US"),
        (having(4, PhotometricInterpretation="MONOCHROME1"), r"grey-scale.*MONOCHROME1"),
        (having(4, Columns=None), r"has no valid Columns"),
        (having(4, PixelData=b"\0" * 100), r"ends early; received 100 bytes of voxels; expected 2720"),
        (having(4, PixelData=None), r"cannot be read; received no voxels"),
        (
            repeated(4, RescaleIntercept="-1000"),
            r"two different slices have the same position; .* at 2\.00 mm",
        ),
        (
            repeated(4, AcquisitionNumber=2),
            r"several acquisitions .*; at 1 position both, .* at 2\.00 mm",
        ),
        (lambda s: s[:1], r"has one slice; received the slice at -10\.00 mm"),
    ],
)
def test_slices_that_form_no_grid_are_refused(
    volume: Volume, tmp_path: Path, change: Change, message: str
) -> None:
    folder = write(change(slices_of(volume)), tmp_path)
    with pytest.raises(ImageError, match=message):
        read_dicom(folder)


def test_an_identical_slice_twice_counts_once(volume: Volume, tmp_path: Path) -> None:
    found = read_dicom(write(repeated(4)(slices_of(volume)), tmp_path))
    assert np.array_equal(found.array, volume.array)
    assert found.notes == ("1 duplicate slice left out",)


def test_rounded_positions_are_regular(volume: Volume, tmp_path: Path) -> None:
    slices = slices_of(volume)
    for k, ds in enumerate(slices):
        ds.ImagePositionPatient = [*ds.ImagePositionPatient[:2], f"{-10 + 3 * k + 0.04 * (-1) ** k:.2f}"]
    assert read_dicom(write(slices, tmp_path)).shape == volume.shape


def test_missing_slices_are_interpolated_if_allowed(volume: Volume, tmp_path: Path) -> None:
    folder = write(without(3)(slices_of(volume)), tmp_path)
    found = read_dicom(folder, allow_irregular=True)
    kept = [k for k in range(9) if k != 3]
    assert found.shape == volume.shape and np.allclose(found.affine, volume.affine, atol=1e-6)
    assert np.array_equal(found.array[..., kept], volume.array[..., kept])
    between = (volume.array[..., 2].astype(float) + volume.array[..., 4]) / 2
    assert np.abs(found.array[..., 3] - between).max() <= 0.5
    assert found.notes == (
        "8 slices at uneven distances (3.000 to 6.000 mm) were interpolated to 9 slices, 3.000 mm apart",
    )


@pytest.mark.parametrize("other", ["4712", ""])
def test_slices_of_several_patients_are_no_series(volume: Volume, tmp_path: Path, other: str) -> None:
    slices = slices_of(volume, PatientID="4711")
    slices[-1].PatientID = other
    with pytest.raises(ImageError, match="several patients; received 2 values of PatientID") as error:
        read_dicom(write(slices, tmp_path / "s"))
    assert "471" not in str(error.value)
