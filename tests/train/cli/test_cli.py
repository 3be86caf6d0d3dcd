"""Test `gcis-train`: help, and errors in one line with exit code 2."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gcis_train.cli.main import main
from tests.support.training_values import write_cases


def _run(*args: str) -> Result:
    return CliRunner().invoke(main, list(args))


def _one_line(result: Result, *parts: str) -> None:
    assert result.exit_code == 2, result.output
    text = result.stderr.strip()
    assert "\n" not in text and "Traceback" not in text, text
    assert text.startswith("gcis-train: error: ")
    for part in parts:
        assert part in text


@pytest.mark.parametrize("command", ["pretrain", "warmstart"])
def test_help(command: str) -> None:
    result = _run(command, "--help")
    assert result.exit_code == 0 and "--datalist" in result.output and "--resume" in result.output


def test_a_bad_row_is_one_line_in_a_real_process(tmp_path: Path) -> None:
    path = write_cases(tmp_path, 1)
    rows = json.loads(path.read_text())
    rows["training"][1]["label"] = "missing.nii.gz"
    path.write_text(json.dumps(rows))
    code = "from gcis_train.cli.main import main; main()"
    command = [
        sys.executable,
        "-c",
        code,
        "pretrain",
        "--datalist",
        str(path),
        "--run-dir",
        str(tmp_path / "run"),
    ]
    child = subprocess.run(command, check=False, capture_output=True, text=True)
    assert child.returncode == 2
    lines = child.stderr.strip().splitlines()
    assert len(lines) == 1 and "training[1]" in lines[0] and "missing.nii.gz" in lines[0]
    assert child.stdout == "" and not (tmp_path / "run").exists()


def test_errors_are_one_line(tmp_path: Path) -> None:
    run = ["--run-dir", str(tmp_path / "run"), "--clip-weights", "random"]
    missing = str(tmp_path / "none.json")
    _one_line(_run("pretrain", "--datalist", missing, *run), "none.json cannot be read", "No such file")
    path = str(write_cases(tmp_path, 1))
    _one_line(_run("pretrain", "--datalist", path, *run, "--roi", "32"), "not allowed", "at least 64")
    _one_line(_run("warmstart", "--datalist", path, *run, "--device", "banana"), "unknown device")
    _one_line(
        _run("pretrain", "--datalist", path, *run, "--config", missing), "configuration", "cannot be read"
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("command", "inner"), [("pretrain", "."), ("warmstart", "static")])
def test_an_existing_run_is_refused(tmp_path: Path, command: str, inner: str) -> None:
    path = write_cases(tmp_path, 1)
    folder = tmp_path / "run" / inner
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "checkpoint.json").write_text("{}")
    arguments = ["--datalist", str(path), "--run-dir", str(tmp_path / "run"), "--clip-weights", "random"]
    _one_line(_run(command, *arguments), "already contains a run", "--resume")
