"""Test that the installed wheel runs without PyTorch, MONAI, CLIP, onnx, SciPy and SimpleITK."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PACKAGES = ("torch", "monai", "open_clip", "onnx", "scipy", "safetensors", "SimpleITK")
FORBIDDEN = (*PACKAGES, "gcis_train", "gcis_export")
WHEEL_PACKAGES = ("gcis_runtime", "gcis_train", "gcis_export")

GUARD = f"""
import sys

class Guard:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {FORBIDDEN!r}:
            raise ModuleNotFoundError(f"{{name}} is forbidden here", name=name)

sys.meta_path.insert(0, Guard())
"""


def run(program, code_or_module, *arguments, cwd):
    """Run a Python interpreter in isolated mode, or another program."""
    isolated = ["-I"] if Path(program).name.startswith("python") else []
    return subprocess.run(
        [program, *isolated, *map(str, (*code_or_module, *arguments))],
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


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy, because building creates `build/` and `egg-info`."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    for name in (*WHEEL_PACKAGES, "benchmarks"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    built = tmp_path_factory.mktemp("wheel")
    command = ("-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", built)
    done = run(sys.executable, command, source, cwd=source)
    assert done.returncode == 0, done.stderr
    (file,) = built.glob("gcis-*.whl")
    return file


@pytest.fixture(scope="module")
def bare(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Create an environment with only the wheel and its dependencies; needs the package index."""
    home = tmp_path_factory.mktemp("bare")
    venv.create(home, with_pip=True)
    command = ("-m", "pip", "install", "--quiet", "--no-warn-script-location")
    install = run(home / "bin" / "python", command, wheel, cwd=home)
    assert install.returncode == 0, install.stderr
    yield home
    shutil.rmtree(home)  # half a gigabyte


@pytest.mark.slow
def test_the_wheel_contains_three_packages_with_their_data(wheel):
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")}
    installed = {name for name in names if not name.partition("/")[0].endswith(".dist-info")}
    assert {name.partition("/")[0] for name in installed} == set(WHEEL_PACKAGES)
    tracked = [p for name in WHEEL_PACKAGES for p in (REPOSITORY / name).rglob("*") if p.is_file()]
    expected = {str(p.relative_to(REPOSITORY)) for p in tracked if "__pycache__" not in p.parts}
    assert installed == expected
    assert {
        "gcis_runtime/sliding/cuda/kernels.cu",
        "gcis_runtime/demo/headneck.gcis/manifest.json",
        "gcis_runtime/demo/headneck.gcis/model.fp16.onnx",
        "gcis_runtime/demo/headneck.gcis/model.onnx",
        *(f"{name}/py.typed" for name in WHEEL_PACKAGES),
    } <= installed


@pytest.mark.slow
def test_the_base_distribution_alone_segments(bare, make_bundle, ct, tmp_path):
    """Run in an environment that was installed from the wheel and the package index."""
    python = bare / "bin" / "python"
    for name in PACKAGES:
        assert run(python, ("-c", f"import {name}"), cwd=tmp_path).returncode != 0, f"{name} is installed"
    words = [ct, "--bundle", make_bundle(), "--engine", "onnx", "--json", "--preview"]
    result = run(bare / "bin" / "gcis-run", (), *words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["results"][0]["structures"][1]["voxels"] > 0
    doctor = run(bare / "bin" / "gcis-bundle", ("doctor",), cwd=tmp_path)
    assert doctor.returncode == 0, doctor.stderr


@pytest.mark.slow
def test_the_demo_runs_from_the_wheel(bare, tmp_path):
    words = ["--phantom", 7, "--bundle", "demo", "--json", "-o", tmp_path / "out"]
    result = run(bare / "bin" / "gcis-run", (), *words, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    structures = json.loads(result.stdout)["results"][0]["structures"]
    assert len(structures) == 7 and min(s["dice"] for s in structures) > 0.5
    assert (tmp_path / "out" / "phantom_ct_seg.nii.gz").is_file()
