"""Test the picture: correct proportions, radiological sides, colours and notice."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from gcis_runtime.bundles.manifest import Label
from gcis_runtime.engines.info import EngineInfo
from gcis_runtime.images.volume import Volume
from gcis_runtime.pages.preview import draw_preview, write_preview
from gcis_runtime.pictures.sheet import PANEL
from gcis_runtime.pictures.view import centre_of
from gcis_runtime.pipeline.result import Segmentation, measure


def segmentation(affine, labels):
    volume = Volume.from_array(np.where(labels > 0, 40, -200).astype(np.int16), affine=affine)
    label = Label(value=1, name="thing", prompt="thing", color=(255, 0, 0))
    return Segmentation(
        labels=labels, volume=volume,
        structures=measure({1: int((labels == 1).sum())}, [label], voxel_ml=volume.voxel_ml),
        restore="nearest", seconds={}, windows=1, windows_reused=0, peak_memory=None,
        bundle="b", bundle_sha256="0", notice="n",
        engine=EngineInfo(name="onnx", version="1", device="cpu", precision="fp32", threads=1),
    )  # fmt: skip


def red(picture, box=None):
    array = np.asarray(picture.crop(box) if box else picture).astype(int)
    return (array[..., 0] - array[..., 1] > 60).nonzero()


@pytest.mark.parametrize("flip", [1, -1])
def test_the_patients_right_is_on_the_left(tmp_path, flip):
    labels = np.zeros((40, 30, 20), np.uint8)
    labels[30:36, 5:9, 14:18] = 1  # towards +X of the array
    affine = np.diag([2.0 * flip, 2.0, 3.0, 1.0])
    labels = labels if flip == 1 else labels[::-1].copy()
    picture = draw_preview(segmentation(affine, labels))
    left = 12 + 2 * (PANEL + 12)
    rows, columns = red(picture, (left, 30, left + PANEL, 30 + PANEL))  # axial panel
    assert columns.mean() < PANEL * 0.35  # high X is the patient's right, drawn on the left
    assert rows.mean() > PANEL * 0.6  # low Y is posterior, drawn at the bottom
    rows, _ = red(picture, (12, 30, 12 + PANEL, 30 + PANEL))  # sagittal panel
    assert rows.mean() < PANEL * 0.35  # high Z is superior, drawn on top


def test_air_around_the_patient_is_cropped():
    labels = np.zeros((60, 60, 60), np.uint8)
    labels[20:30, 20:30, 20:30] = 1
    affine = np.eye(4)
    full = segmentation(affine, labels)
    air = np.where(labels > 0, 40, -1000).astype(np.int16)
    cropped = replace(full, volume=Volume.from_array(air, affine=affine))
    assert len(red(draw_preview(cropped))[0]) > 4 * len(red(draw_preview(full))[0])


def test_an_empty_map_and_a_file(tmp_path):
    labels = np.zeros((10, 10, 10), np.uint8)
    path = tmp_path / "a.png"
    write_preview(path, segmentation(np.eye(4), labels))
    with Image.open(path) as picture:
        assert picture.size[0] > 3 * PANEL
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]
    assert centre_of(labels).tolist() == [5, 5, 5]
