"""Test `scale`: measured cost, fitted lines, and the comparison of shards and Ray with one process."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from benchmarks.bundle_copy import copy_bundle
from benchmarks.cli import main
from benchmarks.scale import fleet
from benchmarks.scale import plan as scale_plan
from benchmarks.scale.fits import fit
from benchmarks.scale.measure import FITS, fits
from benchmarks.scale.plan import AXES, copies, default_plan, quick_plan
from benchmarks.tiling import write_tiled
from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.bundles.store import find_bundle
from gcis_runtime.images.nifti import read_volume
from tests.support.bundles_and_images import write_bundle, write_ct


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
    assert set(FITS) == set(AXES)
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


@pytest.mark.slow
def test_the_command_measures_and_draws(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = dataclasses.replace(quick_plan(), volumes=((64, 64, 64), (64, 64, 72)), workers=(1,))
    monkeypatch.setattr(scale_plan, "quick_plan", lambda: tiny)
    words = ["scale", "--quick", "--engine", "onnx", "--spacing", "4", "-o", str(tmp_path)]
    words += [
        "--axis",
        "volume",
        "--axis",
        "workers",
    ]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 0, done.output
    (path,) = tmp_path.glob("scale_*.json")
    record = json.loads(path.read_text())
    one, two = record["rows"]["volume"]
    assert (one["windows"], two["windows"]) == (1, 2)  # 72 voxels need a second window
    assert two["peak_memory_mb"] > 100 and two["seconds"] > two["start_seconds"] > 0
    assert {line["y"] for line in record["fits"]["volume"]} == {"seconds", "peak_memory_mb", "cases_seconds"}
    assert "R2" in done.output
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_a_run_that_fails_is_one_line(tmp_path: Path) -> None:
    words = ["scale", "--quick", "--axis", "volume", "--engine", "no-such", "-o", str(tmp_path / "out")]
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2 and "a run failed" in done.output and "no-such" in done.output
    assert not (tmp_path / "out").exists()


def test_the_start_and_the_cost_of_an_image_follow_from_two_numbers_of_images() -> None:
    rows = [
        {"way": "ray", "images": 8, "seconds": 30.0, "cpu_seconds": 50.0},
        {"way": "ray", "images": 2, "seconds": 12.0, "cpu_seconds": 14.0},
        {"way": "one process", "images": 2, "seconds": 1.0, "cpu_seconds": 1.0},
    ]
    assert fleet._per_image("ray", rows) == {
        "way": "ray",
        "seconds_per_image": 3.0,
        "seconds_of_start": 6.0,
        "cpu_seconds_per_image": 6.0,
        "cpu_seconds_of_start": 2.0,
    }


def test_processes_and_shards_are_measured(tmp_path: Path) -> None:
    image = write_ct(tmp_path / "ct.nii.gz", shape=(20, 18, 16))
    images = [str(p) for p in copies(image, 2)]
    words = [*images, "--bundle", str(write_bundle(tmp_path / "b.gcis")), "--engine", "onnx"]
    for way, summary in (("one process", "summary.csv"), ("two shards", "summary.shard-2-of-2.csv")):
        found = fleet._run(way, words, "", tmp_path / "out")
        assert found["seconds"] > 0 < found["cpu_seconds"]
        assert (tmp_path / "out" / summary).is_file()
    with pytest.raises(RuntimeError, match="one process: "):
        fleet._run("one process", [*words, "--threads", "0"], "", tmp_path / "out")
