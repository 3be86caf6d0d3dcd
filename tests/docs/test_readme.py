"""Test that the README's commands run as written, at toy size: appended flags only reduce the work.

Those before the published weights run in this process, where PyTorch need not be imported ten times; the
others run as a user starts them.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.support.documents import (
    PROGRAMS,
    commands,
    run_command,
    without_clip,
    write_air,
    write_case,
    write_published,
)

pytestmark = pytest.mark.slow

README = (Path(__file__).parents[2] / "README.md").read_text()
PUBLISHED = "\n## Published weights\n"
SMALLER = {
    "gcis-train pretrain": "--feature-size 12 --patch-size 64 --spacing 8 --max-epochs 1 --pathways 2 "
    "--windows-per-case 1 --clip-weights random --validate-every 1",
    "gcis-export": "--check-windows 1",
}


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the files that the README's commands name, and the datalist that it shows."""
    folder = tmp_path_factory.mktemp("readme")
    data = folder / "data"
    data.mkdir()
    for seed, name in enumerate("ab"):
        write_case(data, name, seed)
    (data / "datalist.json").write_text(re.findall(r"```json\n(.*?)```", README, re.DOTALL)[0])
    write_air(folder / "ct.nii.gz")
    write_published(folder / "params.pth", case="small", kind="single")
    return folder


def smaller(words: list[str]) -> list[str]:
    """Return a command's words with the flags that reduce its work."""
    extra = next((flags for start, flags in SMALLER.items() if " ".join(words).startswith(start)), "")
    return [*words, *shlex.split(extra)]


def test_every_command_of_the_readme_runs(workplace: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = commands(README.partition(PUBLISHED)[0])
    assert len(lines) >= 8
    monkeypatch.chdir(workplace)
    monkeypatch.setenv("GCIS_HOME", str(workplace / "home"))
    for words in lines:
        done = CliRunner().invoke(import_module(PROGRAMS[words[0]]).main, smaller(words)[1:])
        assert done.exit_code == 0, f"{shlex.join(words)}\n{done.output}"
    assert (workplace / "results" / "b_ct_seg.nii.gz").is_file()
    assert (workplace / "results" / "b_ct_seg.png").is_file()
    assert (workplace / "results" / "evaluation" / "summary.json").is_file()


def test_published_weights_go_to_a_mask_without_clip(workplace: Path) -> None:
    """The commands run in separate processes in which CLIP cannot be imported."""
    lines = commands(README.partition(PUBLISHED)[2])
    assert len(lines) >= 3
    environment = {"GCIS_HOME": str(workplace / "home"), "OMP_NUM_THREADS": "2"} | without_clip(workplace)
    for words in lines:
        run_command(smaller(words), workplace, environment)
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
