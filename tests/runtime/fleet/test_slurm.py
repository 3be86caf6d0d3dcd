"""Test the job scripts of examples/slurm as Slurm runs them, with a program in the place of srun."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.bundles_and_images import write_ct

SCRIPTS = Path(__file__).parents[3] / "examples" / "slurm"
COMMANDS = {"gcis-run": "gcis_runtime.cli.run", "gcis-bundle": "gcis_runtime.cli.bundle"}


@pytest.fixture
def job(tmp_path):
    """Return a function that runs a job script with the variables of Slurm."""
    programs = tmp_path / "bin"
    programs.mkdir()
    texts = {name: f'exec {sys.executable} -m {module} "$@"' for name, module in COMMANDS.items()}
    texts["srun"] = '[ "$1" = --ntasks=1 ] || exit 9\nshift\nexec "$@"'
    for name, text in texts.items():
        (programs / name).write_text(f"#!/bin/bash\n{text}\n")
        (programs / name).chmod(stat.S_IRWXU)

    def run(script, **variables):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM")}
        environment |= {"PATH": f"{programs}:{os.environ['PATH']}", **variables}
        return subprocess.run(
            ["bash", str(SCRIPTS / script)], env=environment, capture_output=True, text=True, check=False
        )

    return run


def test_an_array_of_tasks_segments_a_cohort(job, tmp_path, make_bundle):
    images, out, bundle = tmp_path / "cts", tmp_path / "out", make_bundle()
    images.mkdir()
    for seed in range(3):
        write_ct(images / f"c {seed}.nii.gz", shape=(20, 18, 16), seed=seed)  # names may contain spaces
    for task in (5, 6):
        done = job(
            "segment.sbatch", IMAGES=f"{images}/c *.nii.gz", BUNDLE=str(bundle), OUT=str(out),
            GCIS_OPTIONS="--engine onnx --statistics",
            SLURM_ARRAY_TASK_ID=str(task), SLURM_ARRAY_TASK_MIN="5", SLURM_ARRAY_TASK_MAX="6",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert "1 done" in done.stdout or "2 done" in done.stdout
    merged = job("merge.sbatch", OUT=str(out))
    assert (merged.returncode, merged.stdout) == (0, f"3 done\nwrote {out}/summary.csv\n"), merged.stderr
    cases = json.loads((out / "summary.json").read_text())["cases"]
    assert [case["case"] for case in cases] == ["c 0", "c 1", "c 2"]
    assert (out / "statistics.csv").is_file()


def test_a_missing_variable_is_named(job):
    done = job("segment.sbatch", BUNDLE="b", OUT="o", SLURM_ARRAY_TASK_ID="1")
    assert done.returncode != 0 and "Set IMAGES to a folder" in done.stderr
    done = job("merge.sbatch")
    assert done.returncode != 0 and "Set OUT to the output folder" in done.stderr


@pytest.mark.parametrize("script", ["segment.sbatch", "merge.sbatch"])
def test_a_script_is_valid_bash_with_directives_first(script):
    text = (SCRIPTS / script).read_text()
    assert subprocess.run(["bash", "-n", str(SCRIPTS / script)], check=False).returncode == 0
    directives = [n for n, line in enumerate(text.splitlines()) if line.startswith("#SBATCH")]
    first_command = next(n for n, line in enumerate(text.splitlines()) if line and not line.startswith("#"))
    assert directives and max(directives) < first_command  # Slurm ignores the others
