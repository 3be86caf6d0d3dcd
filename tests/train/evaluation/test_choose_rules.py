"""Test the program that compares post-processing rules on label maps of `gcis-run --raw`."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import nibabel as nib
import numpy as np

SCRIPT = Path(__file__).parents[3] / "examples" / "headneck" / "choose_rules.py"


def test_rules_are_scored_per_split_and_structure(tmp_path):
    truth = np.zeros((20, 20, 20), dtype=np.uint8)
    truth[5:12, 5:12, 5:12] = 7
    found = truth.copy()
    found[17:19, 17:19, 17:19] = 7  # 8 voxels of 0.008 mL
    found[8, 8, 8] = 0
    rows = {}
    for split, name in (("training", "a"), ("training", "skipped"), ("validation", "b")):
        for kind, voxels in (("ct", truth.astype(np.int16)), ("label", truth), ("ct_seg", found)):
            if (name, kind) != ("skipped", "ct_seg"):
                nib.save(nib.Nifti1Image(voxels, np.diag([2, 2, 2, 1])), tmp_path / f"{name}_{kind}.nii.gz")
        row = {"image": f"{name}_ct.nii.gz", "label": f"{name}_label.nii.gz", "label_value": 7}
        rows.setdefault(split, []).append({**row, "prompt": "mandible"})
        meta = {"structures": [{"prompt": "mandible", "value": 7}]}
        (tmp_path / f"{name}_ct_seg.json").write_text(json.dumps(meta))
    (tmp_path / "d.json").write_text(json.dumps(rows))
    script = runpy.run_path(str(SCRIPT))
    script["main"](*(str(tmp_path / name) for name in ("d.json", "", "out.json")))
    result = json.loads((tmp_path / "out.json").read_text())
    for split in rows:
        scores = result[split]["rules"]
        assert result[split]["patients"] == 1
        dice = {rules: scores[rules]["structures"]["mandible"]["dice"] for rules in scores}
        size = 7**3
        assert dice["raw"] == round(2 * (size - 1) / (2 * size - 1 + 8), 4)
        assert dice["largest"] == dice["min:0.25"] == round(2 * (size - 1) / (2 * size - 1), 4)
        assert dice["fill"] == round(2 * size / (2 * size + 8), 4)
        assert scores["largest"]["mean"]["hd95_mm"] <= scores["raw"]["mean"]["hd95_mm"]
