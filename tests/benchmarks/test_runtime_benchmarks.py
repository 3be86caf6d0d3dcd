"""The runtime's benchmarks compare like with like, and say so when a run fails."""

from __future__ import annotations

import click
import numpy as np
import pytest

from benchmarks.big_volume import levels, write_big_volume
from benchmarks.memory import Run, _measure
from benchmarks.outside_pipelines import Setting, run_pipeline
from benchmarks.runtime_cli import _case, _run
from gcis_runtime.images.nifti import read_volume, write_volume


@pytest.mark.parametrize("restore", ["nearest", "smooth"])
def test_both_pipelines_do_the_same_work(tmp_path, restore):
    image = tmp_path / "ct.nii.gz"
    write_big_volume(image, shape=(90, 80, 60), spacing=(0.8, 0.8, 1.0), structures=3)
    labels = {}
    for name in ("gcis", "monai"):
        setting = Setting(
            image=str(image), out=str(tmp_path / f"{name}.nii.gz"), spacing=1.0, roi=64, overlap=0.25,
            structures=3, restore=restore, threads=1,
        )  # fmt: skip
        result = run_pipeline(name, setting)
        assert set(result["seconds"]) == {"read", "preprocess", "network", "blend", "restore", "write"}
        assert result["outside"] > 0
        labels[name] = read_volume(setting.out)
    np.testing.assert_array_equal(labels["gcis"].affine, labels["monai"].affine)
    assert np.mean(labels["gcis"].array == labels["monai"].array) >= 0.9999
    assert set(np.unique(labels["gcis"].array)) == {0, 1, 2, 3}


def test_the_volume_holds_each_structure_at_its_level(tmp_path):
    write_big_volume(tmp_path / "ct.nii", shape=(60, 50, 40), spacing=(1, 1, 1), structures=2)
    volume = read_volume(tmp_path / "ct.nii")
    assert volume.array.dtype == np.int16
    for level in levels(2):
        assert np.count_nonzero(np.abs(volume.array - level) < 6) > 30
    assert np.median(volume.array[0]) == pytest.approx(-1000, abs=5)


def test_settings_are_read_or_refused():
    assert _case("7:nearest") == (7, "nearest", 0.5)
    assert _case("1:smooth:0.25") == (1, "smooth", 0.25)
    assert _run("50@1.5+masks") == Run(structures=50, spacing=1.5, masks=True)
    assert _run("7") == Run(structures=7)
    for parse, text in ((_case, "7"), (_case, "7:linear"), (_run, "x"), (_run, "7@")):
        with pytest.raises(click.UsageError, match="expected STRUCTURES"):
            parse(text)


def test_a_run_that_fails_is_no_measurement(tmp_path):
    row = _measure(
        Run(structures=7), tmp_path / "no.nii.gz", tmp_path / "no.gcis", engine="onnx", out=tmp_path / "x.nii"
    )
    assert "does not exist" in row["failed"]
    assert "peak_memory_mb" not in row


@pytest.mark.parametrize("margin", [None, pytest.param(0, marks=pytest.mark.slow)])
def test_what_leaving_windows_out_saves_and_costs(tmp_path, monkeypatch, margin):
    """The whole run costs nothing against itself, and a region skips what it says."""
    from benchmarks import windows
    from gcis_runtime.demo.phantom import make_phantom
    from gcis_runtime.images.volume import Volume

    monkeypatch.setattr(windows, "FACTORS", (2.0,))
    phantom = make_phantom(1, spacing=(8.0, 8.0, 8.0))
    middle = tuple(slice(n // 2 - 8, n // 2 + 8) for n in phantom.ct.shape)
    for name, array in (("ct", phantom.ct), ("truth", phantom.labels)):
        write_volume(tmp_path / f"{name}.nii", Volume.from_array(array[middle], affine=phantom.affine))
    record = windows.measure(
        "demo", [tmp_path / "ct.nii"], [tmp_path / "truth.nii"],
        engine="onnx", structure="mandible", spacing=None, margin=margin, say=lambda _line: None,
    )  # fmt: skip
    assert record["crop_foreground"] == margin
    rows = {row["way"]: row for row in record["rows"]}
    assert list(rows) == ["whole", "--body-crop", "--coarse 2", "--roi 'mandible'"]
    whole = rows["whole"]
    assert (whole["skipped"], whole["labels_changed"], whole["dice_with_whole"]) == (0, 0.0, 1.0)
    assert all(row["windows"] + row["skipped"] == whole["windows"] for row in rows.values())
    assert rows["--roi 'mandible'"]["computed"] > rows["--roi 'mandible'"]["windows"] - whole["constant"]
    assert 0 <= whole["dice"] <= 1
    assert [row["way"] for row in record["sums"]] == list(rows)
