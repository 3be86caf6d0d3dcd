"""Test the scripts of the README: their help, and the arguments that they refuse before installing."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from gcis_train.options.stored import read_options

ROOT = Path(__file__).parents[2]
SCRIPTS = [
    "scripts/demo",
    "scripts/test",
    ".ci/run",
    "scripts/environment.sh",
    "scripts/browser_programs",
    "scripts/cpp_programs",
    "scripts/lowest_monai",
    "scripts/triton_server",
    "examples/headneck/run.sh",
    "examples/headneck/feature12/run.sh",
    "examples/routed/run.sh",
]
CONFIGURATIONS = [p for p in sorted((ROOT / "examples").rglob("*.json")) if p.parent.name != "results"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_valid_and_needs_no_path_of_this_machine(name: str) -> None:
    script = ROOT / name
    assert subprocess.run(["bash", "-n", str(script)], check=False).returncode == 0
    assert os.access(script, os.X_OK) == (script.suffix != ".sh" or "examples" in name)
    assert str(ROOT) not in script.read_text()


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: str(path.relative_to(ROOT / "examples")))
def test_a_script_names_each_configuration_and_training_accepts_it(path: Path) -> None:
    read_options(path.read_bytes())
    assert path.name in (path.parent / "run.sh").read_text()


def test_the_training_of_the_demo_prints_its_usage() -> None:
    script = str(ROOT / "examples" / "headneck" / "run.sh")
    done = subprocess.run([script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "run.sh DATALIST.json RUN_DIR [OPTION ...]" in done.stdout


def test_the_demo_says_what_it_does() -> None:
    done = subprocess.run([str(ROOT / "scripts/demo"), "--help"], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "demo-output/" in done.stdout
    assert "the phantom" in done.stdout


def test_the_demo_refuses_a_missing_file_before_it_installs() -> None:
    absent = str(ROOT / "absent.nii.gz")
    done = subprocess.run([str(ROOT / "scripts/demo"), absent], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == f"demo: error: there is no file {absent}\n"
    assert "lean runtime" not in done.stdout


def test_no_python_on_the_path_is_said(tmp_path: Path) -> None:
    command = f'set -e; here={ROOT}; source "{ROOT}/scripts/environment.sh"; find_python'
    done = subprocess.run(
        ["/bin/bash", "-c", command], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "no Python 3.11 or newer" in done.stderr
