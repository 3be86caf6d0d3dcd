"""The runtime runs without PyTorch, MONAI, CLIP, onnx, SciPy and SimpleITK."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("torch", "monai", "open_clip", "onnx", "scipy", "safetensors", "SimpleITK")
FORBIDDEN = (*PACKAGES, "gcis_train", "gcis_export")

GUARD = f"""
import sys

class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {FORBIDDEN!r}:
            raise ModuleNotFoundError(f"{{name}} is forbidden here", name=name)

sys.meta_path.insert(0, Guard())
"""


def run(python, code_or_module, *arguments, cwd):
    return subprocess.run(
        [python, "-I", *code_or_module, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
    )


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_a_full_run_works_where_they_cannot_be_imported(make_bundle, ct, tmp_path, engine):
    code = GUARD + (
        "import gcis_runtime.cli.run\n"
        "try:\n    gcis_runtime.cli.run.main()\n"
        "finally:\n"
        f"    loaded = [m for m in {FORBIDDEN!r} if m in sys.modules]\n"
        "    if loaded: raise RuntimeError(loaded)\n"
    )
    arguments = (
        ct,
        "--bundle",
        make_bundle(),
        "--engine",
        engine,
        "--preview",
        "--statistics",
        "--probability",
        "--json",
    )
    result = run(sys.executable, ("-c", code), *arguments, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["results"][0]["engine"]["name"] == engine
    assert (tmp_path / "ct_seg.png").is_file()


def test_the_guard_fires(tmp_path):
    result = run(sys.executable, ("-c", GUARD + "import torch.nn"), cwd=tmp_path)
    assert "torch is forbidden here" in result.stderr


def test_the_base_distribution_alone_segments(make_bundle, ct, tmp_path):
    """Install into a bare environment from the package index and run; needs the index, and fails without."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    for name in ("gcis_runtime", "gcis_train", "gcis_export", "benchmarks"):
        # A copy, since building leaves build/ and egg-info behind.
        if (REPOSITORY / name).is_dir():
            shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    home = tmp_path / "bare"
    venv.create(home, with_pip=True)
    python = home / "bin" / "python"
    install = run(
        python, ("-m", "pip", "install", "--quiet", "--no-warn-script-location"), source, cwd=tmp_path
    )
    assert install.returncode == 0, install.stderr
    for name in PACKAGES:
        assert run(python, ("-c", f"import {name}"), cwd=tmp_path).returncode != 0, f"{name} is installed"
    command = [
        home / "bin" / "gcis-run",
        ct,
        "--bundle",
        make_bundle(),
        "--engine",
        "onnx",
        "--json",
        "--preview",
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["results"][0]["structures"][1]["voxels"] > 0
    doctor = subprocess.run(
        [home / "bin" / "gcis-bundle", "doctor"], capture_output=True, text=True, check=False
    )
    assert doctor.returncode == 0, doctor.stderr
    shutil.rmtree(home)  # half a gigabyte
