"""Run the scripts of examples/headneck and examples/routed as written: appended options reduce work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gcis_train.data.phantoms import write_phantoms

ROOT = Path(__file__).parents[2]
SEVEN = [
    "brainstem",
    "spinal cord",
    "right parotid gland",
    "left parotid gland",
    "esophagus",
    "larynx",
    "mandible",
]
LESION = "soft tissue sarcoma"
SMALL = ["--phantoms", "0", "--workers", "1", "--device", "cpu"]
SMALLER = [*SMALL, "--feature-size", "12", "--spacing", "8"]


def run(script: str, *words: str | Path) -> None:
    """Run a script with the programs of this environment."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    line = [str(ROOT / "examples" / script), *map(str, words)]
    done = subprocess.run(line, env={**os.environ, "PATH": path}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(line)}\n{done.stdout}\n{done.stderr}"


def read(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.mark.slow
def test_the_examples_train_export_and_evaluate_with_limited_time(tmp_path: Path) -> None:
    organs, lesions = tmp_path / "organs", tmp_path / "lesions"
    for folder, seed in ((organs, 38), (lesions, 48)):
        write_phantoms(folder, count=2, seed=seed, spacing=(8.0,) * 3, training_share=0.5)
    rows = read(lesions / "datalist.json")
    (lesions / "datalist.json").write_text(
        json.dumps({split: [row for row in rows[split] if row["prompt"] == "mandible"] for split in rows})
    )

    warm = tmp_path / "warm"
    limited = [organs / "datalist.json", warm, *SMALLER, "--max-minutes", "0.3"]
    run("headneck/run.sh", *limited)
    assert read(warm / "static" / "options.json")["max_minutes"] == 0.3
    steps = (warm / "static" / "metrics.jsonl").read_text()
    assert list(read(warm / "evaluation" / "summary.json")["prompts"]) == SEVEN
    run("headneck/run.sh", *limited)  # the same command continues, here after the end
    assert (warm / "static" / "metrics.jsonl").read_text() == steps

    routed = tmp_path / "routed"
    sources = [organs / "datalist.json", lesions / "datalist.json"]
    run("routed/run.sh", *sources, warm / "static", routed, *SMALL, "--max-epochs", "1")
    for spread in ("last", "all"):
        result = read(routed / f"evaluation-{spread}" / "summary.json")
        assert list(result["prompts"]) == [*SEVEN, LESION]
        assert result["lesions"][LESION]
