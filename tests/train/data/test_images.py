"""Files of every readable format: one grid, one set of values, clear errors for the rest."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from gcis_runtime.errors import DataError
from gcis_runtime.spec import PreprocessSpec
from gcis_train.data.datalist import Case, Target
from gcis_train.data.images import read_array, read_grid, read_mask
from gcis_train.data.volumes import load_case
from tests.support.training_values import ball_case, write_nifti

AFFINE = np.array([[0, -1.5, 0, 40], [0, 0, -2.5, 30], [1.2, 0, 0, -20], [0, 0, 0, 1]], dtype=float)
"""Permuted and anisotropic: axis mistakes show."""


def _nrrd(source: Path, path: Path) -> Path:
    """Convert by SimpleITK alone, as a user would."""
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(source)), str(path))
    return path


@pytest.mark.parametrize("suffix", [".nrrd", ".seg.nrrd", ".mha"])
def test_every_format_gives_the_same_grid_and_values(tmp_path: Path, suffix: str) -> None:
    hu, _ = ball_case((10, 12, 14))
    nifti = write_nifti(tmp_path / "a.nii.gz", hu, AFFINE)
    other = _nrrd(nifti, tmp_path / f"a{suffix}")
    assert read_grid(other).matches(read_grid(nifti))
    assert read_grid(nifti).shape == (10, 12, 14) and read_grid(other).orientation == "SLP"
    assert read_grid(other).spacing == pytest.approx((1.2, 1.5, 2.5))
    assert np.array_equal(read_array(other), hu) and np.array_equal(read_array(nifti), hu)


def test_a_case_in_nrrd_is_the_case_in_nifti(tmp_path: Path) -> None:
    hu, labels = ball_case()
    files = (
        write_nifti(tmp_path / "ct.nii.gz", hu, AFFINE),
        write_nifti(tmp_path / "seg.nii.gz", labels, AFFINE),
    )
    nrrd = [_nrrd(path, path.with_name(path.name.replace(".nii.gz", ".nrrd"))) for path in files]
    spec = PreprocessSpec(orientation="RAS", spacing=(2.0, 2.0, 2.0))
    one, two = (
        load_case(Case(image=i, targets=(Target(prompt="ball", labels=(s,), values=(2,)),)), spec)
        for i, s in (files, nrrd)
    )
    assert one.image.std() > 0.1 and one.mask(0).any()
    assert np.abs(one.image.astype(np.float32) - two.image.astype(np.float32)).max() < 1e-3
    assert np.array_equal(one.mask(0), two.mask(0)) and two.name == "ct"


def test_a_mask_is_the_union_of_files_and_values(tmp_path: Path) -> None:
    values = np.arange(8, dtype=np.uint8).reshape(2, 2, 2)
    one = write_nifti(tmp_path / "one.nii.gz", values)
    two = write_nifti(tmp_path / "two.nii.gz", values[::-1].copy())
    mask = read_mask(Target(prompt="x", labels=(one, two), values=(1, 3)))
    assert np.array_equal(mask, np.isin(values, (1, 3)) | np.isin(values[::-1], (1, 3))) and mask.sum() == 4
    small = write_nifti(tmp_path / "small.nii.gz", values[:1].copy())
    with pytest.raises(DataError, match=r"label files of 'x' have different shapes; received small.nii.gz"):
        read_mask(Target(prompt="x", labels=(one, small), values=None))


def test_joined_label_files_in_training(tmp_path: Path) -> None:
    hu, labels = ball_case()
    image = write_nifti(tmp_path / "ct.nii.gz", hu)
    files = tuple(write_nifti(tmp_path / f"{v}.nii.gz", (labels == v).astype(np.uint8)) for v in (1, 2))
    spec = PreprocessSpec(orientation="RAS", spacing=(2.0, 2.0, 2.0))
    case = load_case(Case(image=image, targets=(Target(prompt="balls", labels=files, values=(1,)),)), spec)
    assert np.array_equal(case.mask(0), labels > 0)


def test_what_cannot_be_read_says_how_to_convert(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.dcm", "a.npy"):
        with pytest.raises(DataError, match=rf"{name} has a format.*\.nrrd.*dcm2niix"):
            read_grid(tmp_path / name)
        with pytest.raises(DataError, match="Convert it to NIfTI"):
            read_array(tmp_path / name)
    (tmp_path / "a.nrrd").write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"a.nrrd cannot be read"):
        read_grid(tmp_path / "a.nrrd")
    monkeypatch.setitem(sys.modules, "SimpleITK", None)
    with pytest.raises(DataError, match=r"a.nrrd needs SimpleITK.*pip install SimpleITK"):
        read_grid(tmp_path / "a.nrrd")
