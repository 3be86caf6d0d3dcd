"""Test the program that measures test-time mirroring with a segmenter that tells sides by position."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest

SCRIPT = Path(__file__).parents[3] / "examples" / "headneck" / "mirror.py"
LABELS = [
    SimpleNamespace(prompt=p, value=v) for v, p in enumerate(("left kidney", "right kidney", "spine"), 1)
]


class BySide:
    """Finds bright voxels: left or right kidney by the sign of x in mm, spine if brighter.

    Args:
        blind: Miss the kidney on the patient's left.
    """

    bundle = SimpleNamespace(manifest=SimpleNamespace(labels=LABELS))

    def __init__(self, *, blind: bool = False) -> None:
        self.blind = blind

    def segment(self, volume, *, probabilities, raw):
        assert probabilities
        assert raw
        index = np.stack(np.indices(volume.array.shape), axis=-1)
        x = (index @ volume.affine[:3, :3].T + volume.affine[:3, 3])[..., 0]
        kidney, spine = (volume.array > 50) & (volume.array < 150), volume.array >= 150
        masks = {1: kidney & (x < 0) & (not self.blind), 2: kidney & (x > 0), 3: spine}
        return SimpleNamespace(
            probabilities={v: np.where(m, 204, 51).astype(np.uint8) for v, m in masks.items()}
        )


@pytest.fixture
def patient(tmp_path: Path) -> Path:
    """Write a case in LPS order, with unequal kidneys, and its datalist; return the datalist."""
    truth = np.zeros((21, 12, 10), np.uint8)
    truth[14:18, 4:8, 3:7], truth[2:5, 4:7, 3:6], truth[10, 8:10, :] = 1, 2, 3
    hu = np.choose(truth, [0, 100, 100, 200]).astype(np.int16)
    affine = np.diag([-2.0, -2.0, 2.0, 1.0])
    affine[:3, 3] = 20, 12, 0
    for name, voxels in (("ct", hu), ("label", truth)):
        nib.save(nib.Nifti1Image(voxels, affine), tmp_path / f"{name}.nii.gz")
    row = {"image": "ct.nii.gz", "label": "label.nii.gz"}
    rows = [{**row, "label_value": label.value, "prompt": label.prompt} for label in LABELS]
    (tmp_path / "d.json").write_text(json.dumps({"training": rows, "validation": rows}))
    return tmp_path / "d.json"


def _dice(script, segmenter, datalist):
    cases = script["group_cases"](script["read_datalist"](datalist).validation, folder=datalist.parent)
    scores = script["compare"](segmenter, cases)
    return {name: {s.prompt: s.dice for s in found} for name, found in scores.items()}


def test_sides_change_places_and_maps_are_mirrored_back(patient: Path) -> None:
    found = _dice(runpy.run_path(str(SCRIPT)), BySide(), patient)
    assert list(found) == ["one pass", "mirrored", "both"]
    for name in found:
        assert found[name] == {label.prompt: 1.0 for label in LABELS}, name


def test_a_structure_that_one_pass_misses(patient: Path) -> None:
    found = _dice(runpy.run_path(str(SCRIPT)), BySide(blind=True), patient)
    assert (found["one pass"]["left kidney"], found["one pass"]["right kidney"]) == (0.0, 1.0)
    assert (found["mirrored"]["left kidney"], found["mirrored"]["right kidney"]) == (1.0, 0.0)
