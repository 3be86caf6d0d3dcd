"""Test that every program starts as a module and as an installed command, and shows its help."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib.metadata import entry_points
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    ("package", "program"),
    [("gcis_runtime", "gcis-run"), ("gcis_train", "gcis-train"), ("gcis_export", "gcis-export")],
)
def test_a_package_runs_as_a_module(package: str, program: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", package, "--help"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Usage: {program} ")


def test_every_command_of_the_project_has_its_function() -> None:
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert {"gcis-run", "gcis-bundle", "gcis-train", "gcis-export"} <= set(scripts)
    installed = {e.name: e for e in entry_points(group="console_scripts") if e.name in scripts}
    assert {name: entry.value for name, entry in installed.items()} == scripts
    for name, entry in installed.items():
        assert entry.load().name == name
