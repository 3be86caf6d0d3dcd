"""Test the windows of the parity gate: cases in every readable format give the same windows."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from gcis_export.gate.check_windows import calibration_windows, gather_windows
from gcis_runtime.errors import ImageError
from gcis_runtime.spec import PreprocessSpec, WindowSpec
from tests.support.bundles_and_images import set_pixdim, write_ct

SPEC = PreprocessSpec(orientation="RAS", spacing=(3.0, 3.0, 3.0))
WINDOW = WindowSpec(patch_size=(64, 64, 64))


def test_every_format_gives_the_same_windows(tmp_path):
    plain = write_ct(tmp_path / "a.nii.gz")
    SimpleITK.WriteImage(SimpleITK.ReadImage(str(plain)), str(tmp_path / "t.nrrd"))
    image = nib.load(plain)
    image.set_qform(None, 0)
    nib.save(image, tmp_path / "p.nii.gz")
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj)[..., None], image.affine), tmp_path / "four.nii.gz")
    others = [
        (tmp_path / "t.nrrd").rename(tmp_path / "B.NRRD"),
        set_pixdim(tmp_path / "p.nii.gz", 1),
        tmp_path / "four.nii.gz",
    ]
    expected, _ = gather_windows((plain,), spec=SPEC, window=WINDOW)
    for path in others:
        for found in (
            gather_windows((path,), spec=SPEC, window=WINDOW)[0][:-1],
            calibration_windows((path,), spec=SPEC, window=WINDOW),
        ):
            for one, two in zip(found, expected, strict=False):
                np.testing.assert_allclose(one, two, atol=1e-5)


def test_a_complex_image_is_refused(tmp_path):
    nib.save(nib.Nifti1Image(np.zeros((9, 8, 7), np.complex64), np.eye(4)), tmp_path / "c.nii.gz")
    with pytest.raises(ImageError, match=r"c.nii.gz: the voxels are not real numbers"):
        gather_windows((tmp_path / "c.nii.gz",), spec=SPEC, window=WINDOW)
