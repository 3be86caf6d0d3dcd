"""Extract commands from the documents, and write the files that these commands name, at toy size."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import nibabel as nib
import numpy as np
import torch

from gcis_runtime.demo.phantom import make_phantom

DATA = Path(__file__).parents[1] / "data" / "conformance"
HOWTO = Path(__file__).parents[2] / "docs" / "how-to"
PROGRAMS = {
    "gcis-train": "gcis_train.cli.main",
    "gcis-export": "gcis_export.cli",
    "gcis-run": "gcis_runtime.cli.run",
    "gcis-serve": "gcis_runtime.cli.serve",
    "gcis-bundle": "gcis_runtime.cli.bundle",
}
"""Module of every program, by its name."""


def commands(text: str, kind: str = "bash") -> list[list[str]]:
    """Return the command lines of a document's blocks of a kind as lists of words, without a leading `$ `."""
    blocks = re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line.removeprefix("$ ")) for line in lines if line.strip()]


def run_command(words: list[str], folder: Path, environment: Mapping[str, str]) -> None:
    """Run a program of the project as written in a document, and check that it succeeds."""
    program = Path(sys.executable).parent / words[0]
    done = subprocess.run(
        [str(program), *words[1:]],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"


def write_case(folder: Path, name: str, seed: int) -> None:
    """Write a phantom as `<name>_ct.nii.gz` and `<name>_label.nii.gz`."""
    phantom = make_phantom(seed, spacing=(8.0, 8.0, 8.0))
    nib.save(nib.Nifti1Image(phantom.ct, phantom.affine), folder / f"{name}_ct.nii.gz")
    nib.save(nib.Nifti1Image(phantom.labels, phantom.affine), folder / f"{name}_label.nii.gz")


def write_air(file: Path) -> None:
    """Write a small CT of 1 mm voxels that shows nothing."""
    air = np.full((40, 40, 40), -1000, np.int16)
    nib.save(nib.Nifti1Image(air, np.diag([1.0, 1.0, 1.0, 1.0])), file)


def write_published(file: Path, *, case: str, kind: str) -> None:
    """Write a conformance case's weights as they are published: `kind` is `routed` or `single`."""
    from tests.support import recipe

    found = json.loads((DATA / f"case_{case}.json").read_text())
    state = recipe.state_dict(found[f"{kind}_shapes"], found["seed"])
    torch.save({k: torch.from_numpy(v) for k, v in state.items()}, file)


def without_clip(folder: Path) -> dict[str, str]:
    """Return an environment in which `open_clip` cannot be imported."""
    blocked = folder / "without_clip"
    (blocked / "open_clip").mkdir(parents=True, exist_ok=True)
    (blocked / "open_clip" / "__init__.py").write_text("raise ImportError('no CLIP here')\n")
    path = [str(blocked), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"PYTHONPATH": os.pathsep.join(path)}
