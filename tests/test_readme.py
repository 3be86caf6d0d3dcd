"""The README's commands run as written, at toy size: later flags only shrink the work."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from gcis_runtime.phantom import make_phantom

README = (Path(__file__).parents[1] / "README.md").read_text()
SMALLER = {
    "gcis-train pretrain": "--feature-size 12 --roi 64 --spacing 8 --max-epochs 1 --pathways 2 "
    "--windows-per-case 1 --clip-weights random --validate-every 1",
}


def commands() -> list[list[str]]:
    """Return every command line of the README's bash blocks."""
    blocks = re.findall(r"```bash\n(.*?)```", README, re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [shlex.split(line) for line in lines if line.strip()]


def write_case(folder: Path, name: str, seed: int) -> None:
    phantom = make_phantom(seed, spacing=(8.0, 8.0, 8.0))
    nib.save(nib.Nifti1Image(phantom.ct, phantom.affine), folder / f"{name}_ct.nii.gz")
    nib.save(nib.Nifti1Image(phantom.labels, phantom.affine), folder / f"{name}_label.nii.gz")


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the README's commands name, and the datalist that it prints."""
    folder = tmp_path_factory.mktemp("readme")
    data = folder / "data"
    data.mkdir()
    for seed, name in enumerate("ab"):
        write_case(data, name, seed)
    (data / "datalist.json").write_text(re.findall(r"```json\n(.*?)```", README, re.DOTALL)[0])
    small = nib.Nifti1Image(np.full((40, 40, 40), -1000, np.int16), np.diag([1.0, 1.0, 1.0, 1.0]))
    nib.save(small, folder / "ct.nii.gz")
    sys.path.insert(0, str(Path(__file__).parent / "data" / "conformance"))
    import recipe

    case = json.loads((Path(__file__).parent / "data" / "conformance" / "case_small.json").read_text())
    state = recipe.state_dict(case["single_shapes"], case["seed"])
    torch.save({k: torch.from_numpy(v) for k, v in state.items()}, folder / "params.pth")
    return folder


def test_every_command_of_the_readme_runs(workplace: Path) -> None:
    lines = commands()
    assert len(lines) >= 10
    environment = {**os.environ, "GCIS_HOME": str(workplace / "home"), "OMP_NUM_THREADS": "2"}
    for words in lines:
        extra = next((flags for start, flags in SMALLER.items() if " ".join(words).startswith(start)), "")
        program = Path(sys.executable).parent / words[0]
        done = subprocess.run(
            [str(program), *words[1:], *shlex.split(extra)],
            cwd=workplace,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{shlex.join(words)}\n{done.stdout}\n{done.stderr}"
    assert (workplace / "results" / "b_ct_seg.nii.gz").is_file()
    assert (workplace / "results" / "b_ct_seg.png").is_file()
    assert (workplace / "results" / "evaluation" / "summary.json").is_file()
    assert (workplace / "ct_seg.nii.gz").is_file()


def test_the_python_example_of_the_readme_runs(workplace: Path) -> None:
    if not (workplace / "mine.gcis").is_dir():
        pytest.fail("the commands of the README made no bundle")
    code = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=workplace, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "mandible" in done.stdout
    assert (workplace / "b_seg.nii.gz").is_file()
