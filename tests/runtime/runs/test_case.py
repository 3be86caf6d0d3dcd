"""Test that images with more voxels than the memory limit allows are refused before they are read."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from gcis_runtime.errors import ImageError, MemoryLimitError
from gcis_runtime.images import files as formats
from gcis_runtime.images import nifti
from gcis_runtime.images.volume import to_lean
from gcis_runtime.pipeline.options import SegmentOptions
from gcis_runtime.runs import case as runs
from gcis_runtime.runs import reading
from gcis_runtime.runs.options import RunOptions
from gcis_runtime.system.memory import resident_bytes
from tests.support.bundles_and_images import smooth_ct


def half_of_memory():
    return RunOptions(segment=SegmentOptions(max_memory=resident_bytes() // 2))


def test_voxels_that_are_too_many_are_not_read(make_bundle, ct, tmp_path, monkeypatch):
    monkeypatch.setattr(reading, "read_volume", pytest.fail)
    assert nifti.voxel_bytes(ct) == 40 * 36 * 30 * 2
    with pytest.raises(MemoryLimitError, match="with its voxels and the engine"):
        runs.read_case(
            None,
            SimpleNamespace(image=ct, series=None),
            RunOptions(segment=SegmentOptions(max_memory=resident_bytes() // 2)),
        )


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float64])
def test_voxels_of_other_formats_that_are_too_many_are_not_read(tmp_path, monkeypatch, suffix, dtype):
    """Reading holds the lean array and a chunk of 16 MiB, as for NIfTI."""
    array = smooth_ct((40, 36, 30)).astype(dtype)
    image = sitk.GetImageFromArray(array.T)
    path = tmp_path / f"ct{suffix}"
    sitk.WriteImage(image, str(path), useCompression=True)
    assert formats.voxel_bytes(path) == to_lean(array).nbytes
    monkeypatch.setattr(reading, "read_volume", pytest.fail)
    with pytest.raises(MemoryLimitError, match="with its voxels and the engine"):
        runs.read_case(
            None,
            SimpleNamespace(image=path, series=None),
            RunOptions(segment=SegmentOptions(max_memory=resident_bytes() // 2)),
        )
    path.write_bytes(b"NRRD0004\nnothing")
    with pytest.raises(ImageError, match=r"cannot be read|damaged header"):
        formats.voxel_bytes(path)
