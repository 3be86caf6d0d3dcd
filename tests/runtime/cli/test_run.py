"""Test `gcis-run`: readable and JSON results; errors are one line with exit code 2 and leave no files."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from click.testing import CliRunner
from scipy import ndimage

from gcis_runtime.cli import bundle as bundle_cli
from gcis_runtime.cli import run as cli
from gcis_runtime.images import nifti
from gcis_runtime.pipeline import run_pass as passes
from gcis_runtime.pipeline import segmenter
from tests.support.bundles_and_images import write_ct


@pytest.fixture
def run(monkeypatch, tmp_path):
    monkeypatch.setenv("GCIS_HOME", str(tmp_path / "home"))
    return lambda *args: CliRunner().invoke(cli.main, [str(a) for a in args])


@pytest.fixture
def bundle(make_bundle):
    return make_bundle()


def files(folder):
    """Return the names of all files except those of the engine cache."""
    names = (p.relative_to(folder).as_posix() for p in Path(folder).rglob("*") if p.is_file())
    return sorted(name for name in names if not name.startswith("home/cache/"))


def assert_one_error(result, *texts):
    assert result.exit_code == 2, result.output
    lines = result.stderr.strip().splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("gcis-run: error: ")
    for text in texts:
        assert text in lines[0]
    assert result.stdout == ""
    assert isinstance(result.exception, SystemExit)


def test_defaults_write_beside_the_image(run, bundle, ct):
    result = run(ct, "--bundle", bundle, "--engine", "onnx")
    assert result.exit_code == 0, result.output
    image, labels = nib.load(ct), nib.load(ct.parent / "ct_seg.nii.gz")
    assert labels.shape == image.shape
    np.testing.assert_array_equal(labels.affine, image.affine)
    assert labels.get_data_dtype() == np.uint8
    report = json.loads((ct.parent / "ct_seg.json").read_text())
    assert [s["name"] for s in report["structures"]] == ["bone", "liver"]
    counts = [int(np.count_nonzero(np.asarray(labels.dataobj) == s["value"])) for s in report["structures"]]
    assert [s["voxels"] for s in report["structures"]] == counts
    assert report["notice"] == "test bundle, not a medical device"
    assert report["engine"]["name"] == "onnx"
    assert set(report["seconds"]) == {"read", "preprocess", "network", "blend", "restore", "write"}
    assert "liver" in result.stdout
    assert "forecast: 1 window, " in result.stderr and "; 1 window; " in result.stdout
    assert f"{report['structures'][1]['volume_ml']:.1f}" in result.stdout
    assert sorted(p.name for p in ct.parent.iterdir() if p.is_file()) == [
        "ct.nii.gz",
        "ct_seg.json",
        "ct_seg.nii.gz",
    ]


def test_json_is_the_only_thing_on_stdout(run, bundle, ct, tmp_path):
    image = nib.load(ct)
    nib.save(nib.Nifti1Image(np.ones(image.shape, np.uint8), image.affine), tmp_path / "t.nii.gz")
    truth = tmp_path / "t.nii.gz"
    result = run(ct, "--bundle", bundle, "--json", "-o", tmp_path / "x.nii.gz", "--truth", truth)
    document = json.loads(result.stdout)
    assert document["errors"] == []
    assert document["results"][0]["labels"] == str(tmp_path / "x.nii.gz")
    assert (tmp_path / "x.json").is_file()


def test_what_opening_the_engine_did_is_told(run, bundle, ct, monkeypatch):
    notes = property(lambda _: ("an engine was built for this GPU",))
    monkeypatch.setattr(segmenter.Segmenter, "notes", notes)
    assert "gcis-run: note: an engine was built for this GPU" in run(ct, "--bundle", bundle).stderr


def test_truth_gives_dice_by_value(run, bundle, ct, tmp_path):
    run(ct, "--bundle", bundle, "-o", tmp_path / "a.nii.gz")
    result = run(
        ct, "--bundle", bundle, "-o", tmp_path / "b.nii.gz", "--truth", tmp_path / "a.nii.gz", "--json"
    )
    assert [s["dice"] for s in json.loads(result.stdout)["results"][0]["structures"]] == [1.0, 1.0]
    truth = nib.load(tmp_path / "a.nii.gz")
    only_bone = np.where(np.asarray(truth.dataobj) == 1, 1, 0).astype(np.uint8)
    nib.save(nib.Nifti1Image(only_bone, truth.affine), tmp_path / "c.nii.gz")
    result = run(ct, "--bundle", bundle, "-o", tmp_path / "b.nii.gz", "--truth", tmp_path / "c.nii.gz")
    assert "1.000" in result.stdout
    assert json.loads((tmp_path / "b.json").read_text())["structures"][1]["dice"] is None


def test_a_truth_of_another_type_scores_the_same(run, bundle, ct, tmp_path):
    """Many programs save label maps as floats or with a scale factor."""
    labels = run(ct, "--bundle", bundle, "-o", tmp_path / "a.nii.gz", "--json")
    assert labels.exit_code == 0, labels.output
    truth = nib.load(tmp_path / "a.nii.gz")
    scaled = nib.Nifti1Image(truth.get_fdata(), truth.affine)
    scaled.set_data_dtype(np.int16)
    nib.save(scaled, tmp_path / "scaled.nii.gz")
    soft = truth.get_fdata().astype(np.float32) * np.float32(0.9999999)
    nib.save(nib.Nifti1Image(soft, truth.affine), tmp_path / "float.nii.gz")
    nib.save(nib.Nifti1Image(np.asarray(truth.dataobj)[..., None], truth.affine), tmp_path / "four.nii.gz")
    for name in ("scaled", "float", "four"):
        result = run(
            ct,
            "--bundle",
            bundle,
            "-o",
            tmp_path / "b.nii.gz",
            "--truth",
            tmp_path / f"{name}.nii.gz",
            "--json",
        )
        assert result.exit_code == 0, result.output
        dice = [s["dice"] for s in json.loads(result.stdout)["results"][0]["structures"]]
        assert dice == [1.0, 1.0], name
    nib.save(nib.Nifti1Image(soft / 2, truth.affine), tmp_path / "half.nii.gz")
    result = run(ct, "--bundle", bundle, "-o", tmp_path / "c.nii.gz", "--truth", tmp_path / "half.nii.gz")
    assert_one_error(_quiet(result), "half.nii.gz: the label map has values between whole numbers")


def test_a_truth_on_another_grid_is_refused(run, bundle, ct, tmp_path):
    moved = nib.load(ct)
    nib.save(nib.Nifti1Image(np.asarray(moved.dataobj), moved.affine + np.eye(4, k=3)), tmp_path / "t.nii.gz")
    out = tmp_path / "x.nii.gz"
    assert_one_error(
        _quiet(run(ct, "--bundle", bundle, "-o", out, "--truth", tmp_path / "t.nii.gz")),
        "t.nii.gz is on a different grid",
    )
    write_ct(tmp_path / "t.nii.gz", shape=(5, 5, 5))
    assert_one_error(
        _quiet(run(ct, "--bundle", bundle, "-o", out, "--truth", tmp_path / "t.nii.gz")), "a different shape"
    )
    assert not out.exists()


def _quiet(result):
    """Remove the line that names bundle and engine, which precedes the error of an image."""
    kept = [line for line in result.stderr.splitlines() if line.startswith("gcis-run")]
    return Outcome(result.exit_code, "\n".join(kept), result.stdout, result.output, result.exception)


class Outcome:
    def __init__(self, exit_code, stderr, stdout, output, exception):
        self.exit_code, self.stderr, self.stdout = exit_code, stderr, stdout
        self.output, self.exception = output, exception


def test_several_images_go_on_after_a_failure(run, bundle, tmp_path):
    a, b = write_ct(tmp_path / "a.nii.gz"), write_ct(tmp_path / "b.nii.gz", seed=1)
    broken = tmp_path / "broken.nii.gz"
    broken.write_bytes(a.read_bytes()[:2000])
    result = run(a, broken, b, "--bundle", bundle, "-o", tmp_path / "out/", "--json", "--preview")
    assert result.exit_code == 2
    document = json.loads(result.stdout)
    assert [Path(r["image"]).name for r in document["results"]] == ["a.nii.gz", "b.nii.gz"]
    assert [e["image"] for e in document["errors"]] == [str(broken)]
    assert files(tmp_path / "out") == [
        "a_seg.json", "a_seg.nii.gz", "a_seg.png", "b_seg.json", "b_seg.nii.gz", "b_seg.png",
        "summary.csv", "summary.json",
    ]  # fmt: skip


def test_the_store_is_used_without_a_bundle(run, make_bundle, ct):
    assert_one_error(run(ct), "no bundle is installed")
    make_bundle("home/bundles/organs.gcis")
    assert run(ct).exit_code == 0
    make_bundle("home/bundles/kidneys.gcis", name="kidneys", prompts=("right kidney", "left kidney"))
    assert_one_error(run(ct), "several installed bundles match", "kidneys (right kidney, left kidney)")
    result = run(ct, "--prompt", "left kidney", "--json")
    assert [s["name"] for s in json.loads(result.stdout)["results"][0]["structures"]] == ["left kidney"]
    assert_one_error(run(ct, "--prompt", "livr"), "no such prompt", "'liver'")


def bad_images(folder):
    array = np.zeros((6, 6, 6), np.float32)
    array[0, 0, 0] = np.nan
    nib.save(nib.Nifti1Image(array, np.eye(4)), folder / "nan.nii")
    nib.save(nib.Nifti1Image(np.zeros((6, 6, 6, 2), np.int16), np.eye(4)), folder / "4d.nii")
    (folder / "text.nii.gz").write_text("no image")
    write_ct(folder / "good.nii.gz")
    (folder / "cut.nii.gz").write_bytes((folder / "good.nii.gz").read_bytes()[:3000])
    (folder / "dir").mkdir()


IMAGE_ERRORS = {
    "missing.nii.gz": "does not exist",
    "dir": "contains no image",
    "text.nii.gz": "not a NIfTI file",
    "cut.nii.gz": "damaged or truncated",
    "4d.nii": "not three-dimensional",
    "nan.nii": "1 of 216 voxels",
}


@pytest.mark.parametrize("name", IMAGE_ERRORS)
def test_bad_images(run, bundle, tmp_path, name):
    folder = tmp_path / "images"
    folder.mkdir()
    bad_images(folder)
    before = files(tmp_path)
    assert_one_error(_quiet(run(folder / name, "--bundle", bundle)), IMAGE_ERRORS[name], name)
    assert files(tmp_path) == before


def test_bad_bundles_engines_and_outputs(run, bundle, ct, tmp_path):
    before = files(tmp_path)
    assert_one_error(run(ct, "--bundle", tmp_path / "none"), "there is no bundle")
    assert_one_error(run(ct, "--bundle", tmp_path), "is not a bundle")
    assert_one_error(run(ct, "--bundle", bundle, "--prompt", "spleen"), "no such prompt", "'bone', 'liver'")
    assert_one_error(run(ct, "--bundle", bundle, "--engine", "trt"), "run on NVIDIA GPUs")
    assert_one_error(run(ct, "--bundle", bundle, "--device", "gpu"), "unknown device")
    assert_one_error(run(ct, "--bundle", bundle, "-o", ct / "x.nii.gz"), "cannot be written")
    assert_one_error(run(ct, "--bundle", bundle, "-o", "/proc/x.nii.gz"), "cannot be written")
    assert_one_error(run(ct, "--bundle", bundle, "-o", ct), "would overwrite an image")
    assert_one_error(
        run(ct, ct, "--bundle", bundle, "-o", tmp_path / "x.nii.gz"), "a single output file for several"
    )
    assert_one_error(run(ct, ct, "--bundle", bundle), "have the same output")
    assert files(tmp_path) == before
    (bundle / "model.onnx").write_bytes(b"0" * (bundle / "model.onnx").stat().st_size)
    assert_one_error(run(ct, "--bundle", bundle), "not the file that was exported")


def test_usage_errors_exit_with_two(run, ct, tmp_path):
    for arguments in (
        [],
        [ct, "--phantom", "1"],
        ["--phantom", "1"],
        [ct, ct, "--truth", ct],
        [ct, "--engine", "x"],
    ):
        result = run(*arguments)
        assert result.exit_code == 2
        assert "Error: " in result.stderr


def test_a_full_disk_is_one_line_and_leaves_nothing(run, bundle, ct, monkeypatch):
    before = files(ct.parent)
    real = nifti._write_stream

    def full(stream, image, array):
        real(stream, image, array)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nifti, "_write_stream", full)
    assert_one_error(_quiet(run(ct, "--bundle", bundle)), "No space left")
    assert files(ct.parent) == before


def test_an_interrupt_exits_with_130(run, bundle, ct, monkeypatch):
    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(passes, "preprocess", interrupted)
    result = run(ct, "--bundle", bundle)
    assert result.exit_code == 130
    assert "interrupted" in result.stderr
    assert not (ct.parent / "ct_seg.nii.gz").exists()


def test_out_of_memory_is_one_line(run, bundle, ct, monkeypatch):
    def full(*_args, **_kwargs):
        raise MemoryError("Unable to allocate 9 TiB")

    monkeypatch.setattr(passes, "preprocess", full)
    assert_one_error(
        _quiet(run(ct, "--bundle", bundle)),
        "out of memory with onnx",
        "Unable to allocate 9 TiB",
        "openvino on cpu",
    )


def test_verbose_shows_the_traceback(run, tmp_path):
    result = run(tmp_path / "none.nii.gz", "-v")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert result.stderr.strip().splitlines()[-1].startswith("gcis-run: error: ")


def test_a_phantom_is_written_and_scored(run, bundle, tmp_path):
    result = run("--phantom", 3, "--bundle", bundle, "-o", tmp_path / "demo", "--json", "--preview")
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)["results"][0]
    assert all(0 <= s["dice"] <= 1 for s in report["structures"])
    assert files(tmp_path / "demo") == [
        "phantom_ct.nii.gz", "phantom_ct_seg.json", "phantom_ct_seg.nii.gz", "phantom_ct_seg.png",
        "phantom_truth.nii.gz",
    ]  # fmt: skip


HEAVY = ("numpy", "nibabel", "msgspec", "onnxruntime", "openvino", "PIL", "SimpleITK", "isal")
"""Packages that take long to import: `--help` shows in less than half a second without them."""


@pytest.mark.parametrize(
    ("code", "forbidden"),
    [
        ("import gcis_runtime", (*HEAVY, "click")),
        ("import gcis_runtime.cli.run as c\ntry: c.main(['--help'])\nexcept SystemExit: pass", HEAVY),
    ],
)
def test_a_start_imports_nothing_heavy(code, forbidden):
    code += "\nimport sys; print([m for m in sys.argv[1:] if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code, *forbidden], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"
    heavy = subprocess.run(
        [sys.executable, "-c", f"import gcis_runtime.spec, numpy; {code}", *forbidden],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "numpy" in heavy.stdout.splitlines()[-1], "the test sees what is imported"


def test_the_command_ends_cleanly_as_a_process(bundle, ct, tmp_path):
    command = [sys.executable, "-m", "gcis_runtime.cli.run"]
    good = subprocess.run([*command, ct, "--bundle", bundle], capture_output=True, text=True, check=False)
    assert good.returncode == 0
    assert "\r" not in good.stderr  # no progress line in a pipe
    bad = subprocess.run(
        [*command, tmp_path / "no.nii", "--bundle", bundle], capture_output=True, text=True, check=False
    )
    assert (bad.returncode, bad.stdout) == (2, "")
    assert len(bad.stderr.splitlines()) == 1


def test_threads_can_be_chosen(run, bundle, ct, tmp_path):
    result = run(ct, "--bundle", bundle, "--threads", 1, "--json", "--engine", "onnx")
    assert json.loads(result.stdout)["results"][0]["engine"]["threads"] == 1
    assert_one_error(
        run(ct, "--bundle", bundle, "--threads", 100_000), "the number of threads is invalid", "1 to "
    )
    assert run(ct, "--bundle", bundle, "--threads", 0).exit_code == 2


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_do_no_harm(bundle, ct, tmp_path, closed):
    """A file opened with the descriptor of a closed stream would receive the output of libraries."""
    program = (
        "import os, sys\n"
        "real = os.fsync\n"
        "def fsync(file):\n"
        "    assert file > 2, 'an output has the number of a standard stream'\n"
        "    real(file)\n"
        "os.fsync = fsync\n"
        "from gcis_runtime.cli.run import main\n"
        "main(sys.argv[1:])\n"
    )
    words = [
        sys.executable,
        "-c",
        program,
        ct,
        "--bundle",
        bundle,
        "--engine",
        "onnx",
        "-o",
        tmp_path / "out",
    ]
    line = " ".join(shlex.quote(str(word)) for word in words)
    done = subprocess.run(["sh", "-c", f"{line} {closed}"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["ct_seg.json", "ct_seg.nii.gz"]


def test_what_a_name_holds_cannot_write_on_the_terminal(run, bundle, tmp_path):
    odd = write_ct(tmp_path / "a\n\x1b[2Jb.nii.gz")
    result = run(odd, "--bundle", bundle, "--engine", "onnx", "-o", tmp_path / "out/")
    assert result.exit_code == 0 and "\x1b" not in result.output
    lines = result.stderr.splitlines()
    assert len(lines) == 3 and all(
        line.startswith(("test: ", "[1/1] ", "gcis-run: warning: ")) for line in lines
    )
    assert "a\\n\\x1b[2Jb.nii.gz" in lines[-1] and "a\\n\\x1b[2Jb_seg.nii.gz" in result.stdout
    odd.write_bytes(b"no image")
    assert_one_error(_quiet(run(odd, "--bundle", bundle, "-o", tmp_path / "out/")), "\\x1b[2Jb.nii.gz")


def test_masks_keep_overlaps_and_the_way_back_can_be_chosen(run, bundle, ct, tmp_path):
    for restore in ("smooth", "nearest", "published"):
        out = tmp_path / restore / "x.nii.gz"
        result = run(ct, "--bundle", bundle, "-o", out, "--masks", "--restore", restore, "--json")
        report = json.loads(result.stdout)["results"][0]
        assert report["restore"] == restore
        assert report["seconds"]["masks"] > 0
        labels = np.asarray(nib.load(out).dataobj)
        masks = {name: nib.load(path) for name, path in report["masks"].items()}
        assert sorted(p.name for p in (out.parent / "x_masks").iterdir()) == ["bone.nii.gz", "liver.nii.gz"]
        bone, liver = (np.asarray(masks[name].dataobj) for name in ("bone", "liver"))
        assert masks["bone"].get_data_dtype() == np.uint8
        np.testing.assert_array_equal(masks["bone"].affine, nib.load(ct).affine)
        np.testing.assert_array_equal((bone | liver) > 0, labels > 0)
        assert np.any(bone & liver)  # the label map can show only one of them
        np.testing.assert_array_equal(bone[labels == 1], 1)
    smooth, nearest, published = (
        np.asarray(nib.load(tmp_path / restore / "x.nii.gz").dataobj)
        for restore in ("smooth", "nearest", "published")
    )
    assert np.any(smooth != nearest) and np.any(nearest != published)


@pytest.mark.parametrize(
    "limit", [["--roi", "0:9,:,:"], ["--coarse"], ["--coarse", "BUNDLE"], ["--body-crop"]]
)
def test_the_published_way_back_refuses_a_part_of_the_image(run, bundle, ct, tmp_path, limit):
    limit = [bundle if part == "BUNDLE" else part for part in limit]
    result = run(ct, "--bundle", bundle, "-o", tmp_path / "x.nii.gz", "--restore", "published", *limit)
    assert_one_error(result, "cannot be limited to a part of the image", "nearest")
    assert not list(tmp_path.glob("x*"))


def test_the_command_offers_what_the_runtime_does():
    from typing import get_args

    from gcis_runtime.choices import ENGINE_CHOICES, PRECISION_CHOICES, Restore

    offered = {p.name: tuple(getattr(p.type, "choices", ())) for p in cli.main.params}
    assert offered["restore"] == get_args(Restore)
    assert offered["engine"] == ENGINE_CHOICES and offered["precision"] == PRECISION_CHOICES


def test_structures_of_one_name_have_files_of_their_own():
    from gcis_runtime.pipeline.result import Structure, _file_names

    def structure(value, name):
        return Structure(
            value=value, name=name, prompt=name, color=(0, 0, 0), codes={}, voxels=0, volume_ml=0
        )

    assert _file_names([structure(1, "Left Kidney"), structure(2, "rein: ö/..")]) == ["left-kidney", "rein-ö"]
    assert _file_names([structure(1, "a b"), structure(2, "a-b"), structure(3, "../..")]) == [
        "a-b-1", "a-b-2", "structure-3",
    ]  # fmt: skip


def test_rules_are_applied_printed_and_switched_off_with_raw(run, make_bundle, ct, tmp_path):
    bundle = make_bundle(post=("largest,min:0.1,fill", ""))
    found = run(ct, "--bundle", bundle, "--engine", "onnx", "-o", tmp_path / "clean", "--masks")
    assert found.exit_code == 0, found.output
    assert "post-processing, voxels removed and added: bone (largest,min:0.1,fill) -" in found.stdout
    plain = run(ct, "--bundle", bundle, "--engine", "onnx", "-o", tmp_path / "raw", "--raw", "--masks")
    assert plain.exit_code == 0 and "post-processing" not in plain.output
    maps, reports = {}, {}
    for name in ("clean", "raw"):
        maps[name] = np.asarray(nib.load(tmp_path / name / "ct_seg.nii.gz").dataobj)
        reports[name] = json.loads((tmp_path / name / "ct_seg.json").read_text())
    bone, liver = reports["clean"]["structures"]
    assert bone["post"]["removed"] > 0 and "post" not in liver
    assert bone["voxels"] == np.count_nonzero(maps["clean"] == 1)
    assert all("post" not in s for s in reports["raw"]["structures"])
    parts = [ndimage.label(m == 1, np.ones((3, 3, 3)))[1] for m in (maps["clean"], maps["raw"])]
    assert parts[0] == 1 < parts[1]
    mask = np.asarray(nib.load(tmp_path / "clean" / "ct_seg_masks" / "bone.nii.gz").dataobj)
    assert ndimage.label(mask, np.ones((3, 3, 3)))[1] == 1


def test_rules_without_effect_are_printed_in_short(run, make_bundle, ct):
    found = run(ct, "--bundle", make_bundle(post=("min:0.000001", "")), "--engine", "onnx")
    assert "post-processing changed no voxel" in found.stdout


def test_inspect_shows_rules(make_bundle):
    bundle = make_bundle(post=("", "min:2,fill"))
    shown = CliRunner().invoke(bundle_cli.main, ["inspect", str(bundle)])
    assert "post     liver: min:2,fill" in shown.stdout
