"""Test that peak memory stays below forecast and limit, and that images that need more are refused."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner

from gcis_runtime import Volume
from gcis_runtime.cli import run as cli
from gcis_runtime.pipeline import forecast as forecast_module
from gcis_runtime.pipeline import memory_limit as limit_module
from gcis_runtime.spec import PreprocessSpec
from tests.support.bundles_and_images import smooth_ct, write_ct
from tests.support.fake_session import threshold_segmenter

pytestmark = pytest.mark.usefixtures("own_home")
FACTOR = 3.0
"""A forecast of memory is never below the peak, and at most so many times above it."""


def run_alone(*arguments):
    """Run the command in a separate process, whose memory does not include that of other tests."""
    command = [sys.executable, "-m", "gcis_runtime.cli.run", *map(str, arguments), "--engine", "onnx"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def report_of(*arguments):
    done = run_alone(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["results"][0]


@pytest.fixture
def middling(tmp_path):
    """Write a CT of 200 x 200 x 120 voxels."""
    import nibabel as nib

    array = np.kron(smooth_ct((50, 50, 30)), np.ones((4, 4, 4), np.int16)).astype(np.int16)
    nib.save(nib.Nifti1Image(array, np.diag([-1.0, -1.0, 1.0, 1.0])), tmp_path / "middling.nii")
    return tmp_path / "middling.nii"


def test_memory_stays_below_its_forecast_and_under_its_limit(make_bundle, middling, tmp_path):
    """Peak memory stays below the forecast, on the file grid and on a coarser one, and below a limit."""
    arguments = middling, "--bundle", make_bundle(), "-o", tmp_path / "out.nii.gz"
    first = report_of(*arguments)
    forecast = first["forecast"]
    assert (forecast["earlier_runs"], forecast["seconds"]) == (0, None)
    assert forecast["windows"] == first["windows"]["total"] > 1
    assert forecast["measured"]["host_bytes"] == first["peak_memory_bytes"]
    spec = PreprocessSpec(orientation=None, spacing=None)
    native = report_of(middling, "--bundle", make_bundle("native.gcis", preprocess=spec), "-o", arguments[-1])
    for found in (forecast, native["forecast"]):
        peak = found["measured"]["host_bytes"]
        assert peak <= found["host_bytes"] <= FACTOR * peak

    known = report_of(*arguments, "--restore", "nearest")["forecast"]
    assert known["earlier_runs"] == 2
    assert known["measured"]["host_bytes"] <= known["host_bytes"] < forecast["host_bytes"]
    allowed = known["host_bytes"] + (8 << 20)
    second = report_of(*arguments, "--max-memory", allowed)
    assert second["restore"] == "nearest" and "nearest voxel" in second["steps"][-1]
    assert second["forecast"]["earlier_runs"] == 3 and second["forecast"]["seconds"] > 0
    assert second["forecast"]["allowed_bytes"] == allowed >= second["forecast"]["host_bytes"]
    assert second["peak_memory_bytes"] <= allowed
    assert not any("were allowed" in warning for warning in second["warnings"])


def test_an_image_that_needs_more_is_refused_with_nothing_written(make_bundle, ct, tmp_path):
    arguments = [str(ct), "--bundle", str(make_bundle()), "--engine", "onnx", "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(cli.main, [*arguments, "--max-memory", "1M"])
    assert result.exit_code == 2
    line = result.stderr.strip().splitlines()[-1]
    assert "ct.nii.gz needs more memory than is allowed" in line and "expected at most 1 MiB" in line
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
    wrong = CliRunner().invoke(cli.main, [*arguments, "--max-memory", "much"])
    assert wrong.exit_code == 2 and "not an amount of memory; received 'much'" in wrong.stderr


def test_people_and_programs_see_the_forecast(make_bundle, ct, tmp_path):
    arguments = [
        str(ct),
        "--bundle",
        str(make_bundle()),
        "--engine",
        "onnx",
        "-o",
        str(tmp_path / "o.nii.gz"),
    ]
    first = CliRunner().invoke(cli.main, arguments)
    line = next(text for text in first.stderr.splitlines() if "forecast" in text)
    assert "window, up to " in line and line.endswith("(no calibration yet)")
    second = CliRunner().invoke(cli.main, arguments)
    line = next(text for text in second.stderr.splitlines() if "forecast" in text)
    assert "window, about " in line and "no calibration" not in line


def test_one_image_too_large_fails_alone(make_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(forecast_module, "resident_bytes", lambda: 100 << 20)
    monkeypatch.setattr(limit_module, "resident_bytes", lambda: 100 << 20)
    (tmp_path / "cts").mkdir()
    for name, shape in (("a", (20, 18, 16)), ("b", (170, 160, 150)), ("c", (16, 20, 18))):
        write_ct(tmp_path / "cts" / f"{name}.nii.gz", shape=shape)
    words = ["--bundle", str(make_bundle()), "--engine", "onnx", "-o", str(tmp_path / "out")]
    for _ in range(2):  # the second forecast knows the engine, as those below do
        assert CliRunner().invoke(cli.main, [str(tmp_path / "cts" / "a.nii.gz"), *words]).exit_code == 0
    small = json.loads((tmp_path / "out" / "a_seg.json").read_text())["forecast"]["host_bytes"]
    words += ["--max-memory", str(small + (2 << 20))]
    result = CliRunner().invoke(cli.main, [str(tmp_path / "cts"), *words])
    assert result.exit_code == 2
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [case["status"] for case in summary["cases"]] == ["done", "failed", "done"]
    assert "needs more memory than is allowed" in summary["cases"][1]["error"]
    assert not list((tmp_path / "out").glob("b_seg*"))


def test_a_step_is_taken_for_real(monkeypatch):
    """The choices of the forecast are applied: labels equal those of a request for nearest voxels."""
    monkeypatch.setattr(forecast_module, "resident_bytes", lambda: 100 << 20)
    monkeypatch.setattr(limit_module, "resident_bytes", lambda: 100 << 20)
    monkeypatch.setattr(forecast_module, "room_for_file", lambda _: "no disk")
    volume = Volume(array=smooth_ct((90, 40, 70)), affine=np.diag([2.4, 2.4, 2.4, 1.0]))
    ours = threshold_segmenter()
    free = ours.segment(volume)
    nearest = ours.segment(volume, restore="nearest")
    tight = ours.segment(volume, max_memory=nearest.forecast["host_bytes"])
    assert tight.restore == "nearest" and len(tight.steps) >= 1
    np.testing.assert_array_equal(tight.labels, nearest.labels)
    assert np.any(tight.labels != free.labels)


def test_the_memory_that_the_machine_has_left_is_a_limit(make_bundle, ct, tmp_path, monkeypatch):
    arguments = [
        str(ct),
        "--bundle",
        str(make_bundle()),
        "--engine",
        "onnx",
        "-o",
        str(tmp_path / "out.nii.gz"),
    ]
    monkeypatch.setattr(limit_module, "available_bytes", lambda: 1 << 20)
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 2
    line = result.stderr.strip().splitlines()[-1]
    assert "needs more memory than is available" in line and "--max-memory" in line
    assert not (tmp_path / "out.nii.gz").exists()
    result = CliRunner().invoke(cli.main, [*arguments, "--max-memory", "64G"])
    assert result.exit_code == 0, "an explicit limit overrides the check"
    for known in (None, 64 << 30):
        monkeypatch.setattr(limit_module, "available_bytes", lambda known=known: known)
        assert CliRunner().invoke(cli.main, arguments).exit_code == 0
