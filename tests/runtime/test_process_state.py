"""Test that readers, labels and reports do not depend on the state that other code left in the process."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import nibabel as nib
import numpy as np
import pytest
import SimpleITK

from gcis_runtime import read_volume
from tests.support.fake_session import threshold_segmenter
from tests.support.process_state import STATES

SHAPE = (23, 20, 15)
NAMES = ("a.nii.gz", "a.nii", "a.nrrd", "a.nhdr", "a.mha", "a.mhd")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    grid = np.stack(np.meshgrid(*(np.linspace(0, 3, n) for n in SHAPE), indexing="ij"))
    voxels = (400 * np.sin(grid.sum(axis=0) * 2.1) + 60 * grid[0]).astype(np.float32)
    voxels[0, 0, :3] = 1e-40, -1e-42, 1e-38  # denormal numbers
    image = SimpleITK.GetImageFromArray(voxels.T)
    image.SetSpacing((0.7513, 0.8749, 2.1))
    image.SetOrigin((11.5123, -20.25, 3.1))
    image.SetDirection(np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))[0].ravel().tolist())
    for name in NAMES:
        SimpleITK.WriteImage(image, str(folder / name), name.endswith((".nrrd", ".mha")))
    scaled = nib.Nifti1Image((voxels / 2).astype(np.int16), np.diag([0.7, 0.8, 2.1, 1]))
    scaled.header.set_slope_inter(1.7, -0.3)
    nib.save(scaled, folder / "scaled.nii.gz")
    return folder


def digest(*arrays):
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()


def results(folder: Path, out: Path) -> dict[str, object]:
    """Read every format, segment, write and measure; return what users get."""
    out.mkdir()
    found: dict[str, object] = {}
    with threshold_segmenter(orientation="RAS", spacing=(1.3, 1.1, 1.7)) as segmenter:
        for name in (*NAMES, "scaled.nii.gz"):
            volume = read_volume(folder / name)
            result = segmenter.segment(volume, masks=True, straighten=name == "a.nrrd")
            result.save(out / f"{name}_seg.nii.gz")
            report = msgspec.to_builtins(result.report())
            for varying in ("seconds", "forecast", "peak_memory_bytes"):
                del report[varying]
            found[name] = {
                "voxels": digest(volume.array),
                "affine": volume.affine.tolist(),
                "notes": volume.notes,
                "labels": digest(result.labels),
                "mask": digest(result.masks[1]),
                "report": msgspec.json.encode(report).decode(),
            }
    return found


@pytest.mark.parametrize("state", STATES)
def test_results_do_not_depend_on_the_process(folder, tmp_path, state):
    expected = results(folder, tmp_path / "plain")
    with STATES[state](tmp_path):
        found = results(folder, tmp_path / "changed")
    assert found == expected
    for name in expected:
        files = [tmp_path / part / f"{name}_seg.nii.gz" for part in ("plain", "changed")]
        files[1].chmod(0o600)
        assert files[0].read_bytes() == files[1].read_bytes()
