"""Test that measurements of earlier runs are averaged per engine, and damaged files are ignored."""

from __future__ import annotations

import msgspec
import pytest
from click.testing import CliRunner

from gcis_runtime.cli import run as cli
from gcis_runtime.pipeline import calibration
from tests.support.forecasting import RUN

pytestmark = pytest.mark.usefixtures("own_home")
KEY = {"graph": "0" * 64, "engine": "onnx 1"}


def test_runs_are_averaged_and_the_most_memory_counts():
    assert calibration.find(KEY) is None
    calibration.record(KEY, RUN)
    calibration.record(KEY, msgspec.structs.replace(RUN, window_seconds=4.0, run_bytes=50))
    found = calibration.find(KEY)
    assert (found.runs, found.window_seconds, found.run_bytes) == (2, 3.0, 100)
    assert calibration.find(KEY | {"engine": "onnx 2"}) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schema": 1}', bytes(100)])
def test_a_damaged_calibration_is_none(content):
    calibration.record(KEY, RUN)
    (file,) = calibration._file(KEY).parent.iterdir()
    file.write_bytes(content)
    assert calibration.find(KEY) is None
    calibration.record(KEY, RUN)
    assert calibration.find(KEY).runs == 1


def test_a_calibration_of_something_else_under_the_same_name_is_none():
    calibration.record(KEY, RUN)
    file = calibration._file(KEY)
    other = msgspec.structs.replace(calibration.find(KEY), key={"graph": "1"})
    file.write_bytes(msgspec.json.encode(other))
    assert calibration.find(KEY) is None


def test_where_nothing_can_be_kept_runs_go_on(monkeypatch, tmp_path, make_bundle, ct):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GCIS_HOME", str(tmp_path / "file"))
    words = [str(ct), "--bundle", str(make_bundle()), "--engine", "onnx"]
    assert CliRunner().invoke(cli.main, words).exit_code == 0
