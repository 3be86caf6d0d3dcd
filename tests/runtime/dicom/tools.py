"""Find and run DICOM programs of other projects."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

_SYSTEM = os.pathsep.join(("/usr/bin", "/usr/sbin"))
_DCMTK = ("storescu", "echoscu")
"""Programs whose namesakes in this environment belong to pynetdicom."""


def program(name: str) -> str:
    """Return the path of a program in this environment or on the system; fail if it is missing."""
    beside = Path(sys.executable).with_name(name)
    if beside.exists() and name not in _DCMTK:
        return str(beside)
    found = shutil.which(name, path=_SYSTEM) or shutil.which(name)
    if found is None:
        pytest.fail(f"{name} is not installed; .ci/run installs the programs of the tests marked dicom")
    return found


def run(name: str, *args: object, cwd: Path | None = None) -> str:
    """Run a program and return its output; fail if it does not exit with 0."""
    done = subprocess.run(
        [program(name), *map(str, args)], check=False, capture_output=True, text=True, timeout=300, cwd=cwd
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def findings(path: Path) -> list[str]:
    """Return the errors and warnings of dciodvfy for a file."""
    done = subprocess.run(
        [program("dciodvfy"), "-new", str(path)], check=False, capture_output=True, text=True, timeout=120
    )
    lines = (done.stdout + done.stderr).splitlines()
    return [line for line in lines if line.startswith(("Error", "Warning"))]
