"""Test that the commands of docs/how-to/train.md run as written, at toy size: appended flags reduce work.

`test_howto.py` tests that their options exist.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.support.documents import HOWTO, PROGRAMS, commands

GUIDE = commands((HOWTO / "train.md").read_text())
EXPORT = next(i for i, words in enumerate(GUIDE) if words[0] == "gcis-export")
SHORT = ["--max-epochs", "1", "--windows-per-case", "1", "--validate-every", "1"]
SMALL = [
    "--feature-size",
    "12",
    "--patch-size",
    "64",
    "--spacing",
    "8",
    "--pathways",
    "2",
    "--clip-weights",
    "random",
]
SMALLER = {
    "phantoms": ["--count", "2", "--seed", "38", "--spacing", "8", "--training-share", "0.5"],
    "pretrain": [*SMALL, *SHORT],
    "finetune": SHORT,
}


def run(lines: list[list[str]]) -> None:
    """Run commands in one process: in separate processes, each would import PyTorch for seconds."""
    for words in lines:
        program = import_module(PROGRAMS[words[0]]).main
        done = CliRunner().invoke(program, [*words[1:], *SMALLER.get(words[1], [])])
        assert done.exit_code == 0, f"{' '.join(words)}\n{done.output}"


@pytest.mark.slow
def test_the_guide_trains_inspects_and_evaluates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the commands before the export, which takes as long as all of them."""
    monkeypatch.chdir(tmp_path)
    run(GUIDE[:EXPORT])
    for name in ("data/ceiling.json", "runs/first/curves.png", "runs/first/evaluation/summary.md"):
        assert Path(name).is_file(), name
    assert json.loads(Path("runs/mandible/options.json").read_text())["max_epochs"] == 1


@pytest.mark.slow
def test_the_guide_goes_from_data_to_an_evaluated_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run(GUIDE)
    assert Path("results/phantom_39_ct_seg.nii.gz").is_file()
    result = json.loads(Path("results/evaluation/summary.json").read_text())
    assert list(result["prompts"]) == ["mandible"] and list(result["cases"]) == ["phantom_39_ct"]
