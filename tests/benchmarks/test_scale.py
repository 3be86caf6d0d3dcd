"""Test `scale`: measured cost, fitted lines, and the plan that is computed from them."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.bundle_copy import copy_bundle
from benchmarks.cli import main
from benchmarks.scale import plan as scale_plan
from benchmarks.scale import throughput
from benchmarks.scale.fits import fit
from benchmarks.scale.measure import AXES_OF_A_PLAN, FITS, fits
from benchmarks.scale.plan import AXES, copies, default_plan, quick_plan
from benchmarks.tiling import write_tiled
from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.bundles.store import find_bundle
from gcis_runtime.images.nifti import read_volume


def test_a_line_is_found_again() -> None:
    x = [1.0, 2.0, 4.0, 8.0]
    line = fit(x, [3 + 2 * v for v in x])
    assert (line.slope, line.intercept) == (pytest.approx(2), pytest.approx(3))
    assert line.r2 == pytest.approx(1) and line.at(10) == pytest.approx(23)
    assert fit(x, [5 * v**1.5 for v in x]).exponent == pytest.approx(1.5)
    assert fit([0.0, 1.0], [1.0, 2.0]).exponent is None
    with pytest.raises(ValueError, match="two different x"):
        fit([1.0, 1.0], [1.0, 2.0])


def test_every_axis_has_lines_and_values() -> None:
    assert set(FITS) == set(AXES) and set(AXES) >= AXES_OF_A_PLAN
    assert default_plan(2).threads == (1, 2) and default_plan(12).workers == (1, 2, 4, 8)
    assert default_plan(1).threads == (1,)
    assert default_plan(2).volumes[0] == (64, 64, 64) and default_plan(2).volumes[-1] == (512, 512, 800)
    rows = [{"prompts": 3, "cases_seconds": 1.0, "peak_memory_mb": 5}] * 2
    assert fits("prompts", rows) == []  # one x: no line


def test_the_volume_is_the_phantom_again_and_again(tmp_path: Path) -> None:
    write_tiled(tmp_path / "ct.nii.gz", (300, 70, 64), (4.0, 4.0, 4.0))
    array = read_volume(tmp_path / "ct.nii.gz").array
    assert array.shape == (300, 70, 64) and array.min() < -900 and array.max() > 300
    period = next(n for n in range(2, 200, 2) if np.array_equal(array[:-n], array[n:]))
    assert period > 40
    first, second = copies(tmp_path / "ct.nii.gz", 2)
    assert first != second and first.read_bytes() == second.read_bytes()


def test_a_copied_bundle_has_other_windows(tmp_path: Path) -> None:
    source = find_bundle("demo", ())
    copy_bundle(source, tmp_path / "copy", spacing=None, overlap=0.25)
    before, after = open_bundle(source).manifest, open_bundle(tmp_path / "copy").manifest
    assert after.window.overlap == 0.25 != before.window.overlap
    assert after.preprocess == before.preprocess


def _record(**changes: Any) -> dict[str, Any]:
    volume = [
        {
            "shape": [n] * 3,
            "megavoxels": n**3 / 1e6,
            "cases_seconds": 1 + n**3 / 1e6,
            "peak_memory_mb": 100 + n,
        }
        for n in (100, 200)
    ]
    workers = [
        {"workers": 1, "cases": 2, "cases_seconds": 8.0, "start_seconds": 3.0},
        {"workers": 2, "cases": 4, "cases_seconds": 10.0, "start_seconds": 4.0},
    ]
    return {"rows": {"volume": volume, "workers": workers} | changes}


def test_a_plan_follows_from_its_constants() -> None:
    known = throughput.constants(_record(), (200, 200, 200))
    assert known.seconds_per_scan == 9 and known.source == "measured at this shape"
    assert (known.workers, known.gain, known.start_seconds) == (2, pytest.approx(1.6), 4.0)
    one, three = throughput.plan_cohort(known, scans=1000, nodes=[1, 3], price=2.0)
    assert one["hours"] == pytest.approx((4 + 1000 * 9 / 1.6) / 3600, abs=1e-3)
    assert three["hours"] == pytest.approx((4 + 334 * 9 / 1.6) / 3600, abs=1e-3)
    assert one["cost_per_1000_scans"] == pytest.approx(2 * one["node_hours"], abs=1e-2)
    twice = throughput.plan_cohort(known, scans=1000, nodes=[1], price=4.0)[0]
    assert twice["cost_per_1000_scans"] == pytest.approx(2 * one["cost_per_1000_scans"], abs=1e-3)
    assert "cost_per_1000_scans" not in throughput.plan_cohort(known, scans=1, nodes=[1], price=None)[0]
    between = throughput.constants(_record(), (100, 200, 200))
    assert between.seconds_per_scan == pytest.approx(5) and "line through 2" in between.source
    with pytest.raises(ValueError, match="at least one scan"):
        throughput.plan_cohort(known, scans=0, nodes=[1], price=None)


def test_the_command_measures_plans_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = dataclasses.replace(quick_plan(), volumes=((64, 64, 64), (64, 64, 72)), workers=(1,))
    monkeypatch.setattr(scale_plan, "quick_plan", lambda: tiny)
    words = ["scale", "--quick", "--engine", "onnx", "--spacing", "4", "-o", str(tmp_path)]
    words += [
        "--axis",
        "volume",
        "--axis",
        "workers",
        "--price",
        "3",
        "--nodes",
        "2",
        "--scan",
        "64",
        "64",
        "64",
    ]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    (path,) = tmp_path.glob("scale_*.json")
    record = json.loads(path.read_text())
    one, two = record["rows"]["volume"]
    assert (one["windows"], two["windows"]) == (1, 2)  # 72 voxels need a second window
    assert two["peak_memory_mb"] > 100 and two["seconds"] > two["start_seconds"] > 0
    assert {line["y"] for line in record["fits"]["volume"]} == {"seconds", "peak_memory_mb", "cases_seconds"}
    assert record["plan"]["constants"]["source"] == "measured at this shape"
    assert all(line in done.output for line in throughput.ASSUMPTIONS)
    assert "per 1000 scans" in done.output and "R2" in done.output
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_a_run_that_fails_is_one_line(tmp_path: Path) -> None:
    words = ["scale", "--quick", "--axis", "volume", "--engine", "no-such", "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2 and "a run failed" in done.output and "no-such" in done.output
    assert not (tmp_path / "out").exists()
