"""Test the datalist of the routed example: absent lesions, repeated lesion patients, and paths that exist."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from gcis_train.data.datalist import group_cases, read_datalist

ROOT = Path(__file__).parents[2]

LESION = "soft tissue sarcoma"


def test_the_combined_datalist_names_absent_lesions_and_repeats_lesion_patients(tmp_path: Path) -> None:
    for folder, prompt in (("organs", "mandible"), ("lesions", "tumour")):
        (tmp_path / folder).mkdir()
        rows = []
        for name in "abcd":
            for kind in ("ct", "label"):
                (tmp_path / folder / f"{name}_{kind}.nii.gz").touch()
            files = {"image": f"{name}_ct.nii.gz", "label": f"{name}_label.nii.gz"}
            rows.append({**files, "label_value": 1, "prompt": prompt})
        lists = {"training": rows, "validation": rows[:1]}
        (tmp_path / folder / "datalist.json").write_text(json.dumps(lists))
    out = tmp_path / "run" / "datalist.json"
    script = ROOT / "examples" / "routed" / "datalist.py"
    sources = [str(tmp_path / folder / "datalist.json") for folder in ("organs", "lesions")]
    subprocess.run([sys.executable, str(script), *sources, str(out), "--every", "2"], check=True)
    cases = group_cases(read_datalist(out).training, folder=out.parent)  # checks that the files exist
    organs, lesions = cases[:2], cases[2:]
    assert [[t.prompt for t in case.targets] for case in organs] == [["mandible", LESION]] * 2
    assert [case.repeat for case in organs] == [1, 1] and organs[0].targets[1].values == (200,)
    assert [[t.prompt for t in case.targets] for case in lesions] == [[LESION]] * 4
    assert [case.repeat for case in lesions] == [2] * 4
