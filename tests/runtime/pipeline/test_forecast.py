"""Memory and time said beforehand; what would exceed the limit is stepped down or refused."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813
from click.testing import CliRunner

from gcis_runtime import Volume
from gcis_runtime.cli import run as cli
from gcis_runtime.errors import ImageError, MemoryLimitError, OutputError
from gcis_runtime.grids.grid_transform import plan_grid
from gcis_runtime.images import files as formats
from gcis_runtime.images import nifti
from gcis_runtime.images.volume import to_lean
from gcis_runtime.pipeline import calibration, footprint
from gcis_runtime.pipeline import forecast as forecast_module
from gcis_runtime.pipeline.calibration import Measured
from gcis_runtime.pipeline.footprint import Wanted, host_footprint
from gcis_runtime.pipeline.forecast import Sizes, Way, choose_way
from gcis_runtime.pipeline.loaded_engine import LoadedEngine
from gcis_runtime.pipeline.options import SegmentOptions
from gcis_runtime.runs import case as runs
from gcis_runtime.runs import cohort
from gcis_runtime.runs.options import RunOptions
from gcis_runtime.sliding import carry_over as waiting
from gcis_runtime.sliding.accumulator import Buffers
from gcis_runtime.sliding.cuda.slabs import group_windows
from gcis_runtime.sliding.cuda.workspace import Workspace, workspace_bytes
from gcis_runtime.sliding.plan import plan_windows
from gcis_runtime.sliding.schedule import schedule
from gcis_runtime.spec import PreprocessSpec, WindowSpec
from gcis_runtime.system.memory import bytes_text, parse_bytes, resident_bytes
from gcis_runtime.system.worker_threads import ALONE
from tests.runtime.sliding.cuda.test_cuda_blend import ROI, make_plan
from tests.support import fake_cuda
from tests.support.bundles_and_images import smooth_ct, write_ct
from tests.support.fake_session import ThresholdSession, threshold_bundle, threshold_segmenter

FACTOR = 3.0
"""A forecast of memory is never below the peak, and at most so many times above it."""


def limited(max_memory):
    return RunOptions(segment=SegmentOptions(max_memory=max_memory))


@pytest.fixture(autouse=True)
def home(monkeypatch, tmp_path):
    monkeypatch.setenv("GCIS_HOME", str(tmp_path / "home"))


def run_alone(*arguments):
    """Run the command in a process of its own: memory that other tests left is none of its."""
    command = [sys.executable, "-m", "gcis_runtime.cli.run", *map(str, arguments), "--engine", "onnx"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def report_of(*arguments):
    done = run_alone(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["results"][0]


@pytest.fixture
def middling(tmp_path):
    """A CT of 200 x 200 x 120 voxels."""
    import nibabel as nib

    array = np.kron(smooth_ct((50, 50, 30)), np.ones((4, 4, 4), np.int16)).astype(np.int16)
    nib.save(nib.Nifti1Image(array, np.diag([-1.0, -1.0, 1.0, 1.0])), tmp_path / "middling.nii")
    return tmp_path / "middling.nii"


def test_memory_stays_below_its_forecast_and_under_its_limit(make_bundle, middling, tmp_path):
    """The law of forecasts, on a network of its own grid and on a coarser one; then the limit, for real."""
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


def test_voxels_that_are_too_many_are_not_read(make_bundle, ct, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "read_volume", pytest.fail)
    assert nifti.voxel_bytes(ct) == 40 * 36 * 30 * 2
    with pytest.raises(MemoryLimitError, match="with its voxels and the engine"):
        runs.read_case(
            None,
            SimpleNamespace(image=ct),
            RunOptions(segment=SegmentOptions(max_memory=resident_bytes() // 2)),
        )


@pytest.mark.parametrize("suffix", [".nrrd", ".mha"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.float64])
def test_voxels_of_other_formats_that_are_too_many_are_not_read(tmp_path, monkeypatch, suffix, dtype):
    """Reading through ITK holds its image and a copy of it, then that and the lean one."""
    array = smooth_ct((40, 36, 30)).astype(dtype)
    image = sitk.GetImageFromArray(array.T)
    path = tmp_path / f"ct{suffix}"
    sitk.WriteImage(image, str(path), useCompression=True)
    lean = to_lean(array).nbytes if array.dtype != to_lean(array).dtype else 0
    assert formats.voxel_bytes(path) == array.nbytes + max(array.nbytes, lean)
    monkeypatch.setattr(runs, "read_volume", pytest.fail)
    with pytest.raises(MemoryLimitError, match="with its voxels and the engine"):
        runs.read_case(
            None,
            SimpleNamespace(image=path),
            RunOptions(segment=SegmentOptions(max_memory=resident_bytes() // 2)),
        )
    path.write_bytes(b"NRRD0004\nnothing")
    with pytest.raises(ImageError, match=r"cannot be read|damaged header"):
        formats.voxel_bytes(path)


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


def engine_and_sizes(*, shape=(120, 64, 90), spacing=None):
    bundle = threshold_bundle(orientation=None, spacing=spacing)
    transform = plan_grid(shape, np.eye(4), bundle.manifest.preprocess)
    plan = plan_windows(transform.shape, bundle.manifest.window)
    sizes = Sizes(transform=transform, shape=shape, wanted=Wanted(values=(1, 2), smooth=True))
    return LoadedEngine(bundle, ThresholdSession()), sizes, Way(plan=plan, restore="smooth")


def test_the_slab_axis_turns_before_labels_change_and_every_step_is_told(monkeypatch):
    monkeypatch.setattr(forecast_module, "resident_bytes", lambda: 100 << 20)
    monkeypatch.setattr(forecast_module, "room_for_file", lambda _: "no disk")
    engine, sizes, way = engine_and_sizes(spacing=(1.2, 1.2, 1.2), shape=(480, 360, 336))
    same, most = choose_way(engine, sizes, way, allowed=None)
    assert same is way and most.steps == () and way.plan.axis == 2
    turned, less = choose_way(engine, sizes, way, allowed=most.host_bytes - 1)
    assert (turned.restore, turned.plan.axis) == ("smooth", 0) and len(less.steps) == 1
    assert "slabs along X" in less.steps[0] and bytes_text(less.host_bytes) in less.steps[0]
    assert sorted(turned.plan.starts) == sorted(way.plan.starts)
    nearest, least = choose_way(engine, sizes, way, allowed=less.host_bytes - 1)
    assert nearest.restore == "nearest" and len(least.steps) == 2
    assert least.host_bytes < less.host_bytes < most.host_bytes
    refused = r"after slabs.*nearest.*no temporary file.*: no disk.*--max-memory \d+M"
    with pytest.raises(MemoryLimitError, match=refused):
        choose_way(engine, sizes, way, allowed=least.host_bytes // 2)


def test_a_step_is_taken_for_real(monkeypatch):
    """What the forecast chose is what runs: labels of the nearest voxel, as if they had been asked for."""
    monkeypatch.setattr(forecast_module, "resident_bytes", lambda: 100 << 20)
    monkeypatch.setattr(forecast_module, "room_for_file", lambda _: "no disk")
    volume = Volume(array=smooth_ct((90, 40, 70)), affine=np.diag([2.4, 2.4, 2.4, 1.0]))
    ours = threshold_segmenter()
    free = ours.segment(volume)
    nearest = ours.segment(volume, restore="nearest")
    tight = ours.segment(volume, max_memory=nearest.forecast["host_bytes"])
    assert tight.restore == "nearest" and len(tight.steps) >= 1
    np.testing.assert_array_equal(tight.labels, nearest.labels)
    assert np.any(tight.labels != free.labels)


@pytest.fixture
def small_disk(monkeypatch):
    """Small pieces, so that these tests' small sums are worth a file; a disk wherever the tests run."""
    monkeypatch.setattr(forecast_module, "resident_bytes", lambda: 100 << 20)
    monkeypatch.setattr(waiting, "_file_system", lambda _: "ext4")
    monkeypatch.setattr(waiting, "STAGED_BYTES", 1 << 18)
    monkeypatch.setattr(footprint, "STAGED_BYTES", 1 << 18)


@pytest.mark.usefixtures("small_disk")
def test_sums_wait_in_a_file_before_anything_is_given_up(monkeypatch, tmp_path):
    """Labels stay the same bit for bit, the file has no name, and it is gone afterwards."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    made = []
    real = tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **kw: made.append(real(**kw)) or made[-1])
    volume = Volume(array=smooth_ct((150, 100, 140)), affine=np.diag([2.4, 2.4, 2.4, 1.0]))
    ours = threshold_segmenter()
    ours.segment(volume)  # a first run's forecast guesses the engine's share
    free = ours.segment(volume, masks=True)
    assert not made
    tight = ours.segment(volume, masks=True, max_memory=free.forecast["host_bytes"] - 1)
    (file,) = made
    assert file.closed and {path.name for path in tmp_path.iterdir()} <= {"home"}
    (step,) = tight.steps
    assert "temporary file of" in step and tight.restore == "smooth"
    np.testing.assert_array_equal(tight.labels, free.labels)
    assert tight.forecast["host_bytes"] < free.forecast["host_bytes"]


def test_a_file_is_no_way_out_where_it_lies_in_memory_or_does_not_fit(monkeypatch, tmp_path):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    mounts = tmp_path / "mounts"
    mounts.write_text(f"/dev/a / ext4 rw 0 0\ntmpfs {tmp_path} tmpfs rw 0 0\n")
    monkeypatch.setattr(waiting, "_MOUNTS", mounts)
    assert "lies in memory: set TMPDIR" in waiting.room_for_file(1)
    mounts.write_text("/dev/a / ext4 rw 0 0\n")
    assert waiting.room_for_file(1) is None
    assert "are needed" in waiting.room_for_file(1 << 60)
    mounts.unlink()
    assert waiting.room_for_file(1) is None


@pytest.mark.usefixtures("small_disk")
def test_large_sums_wait_in_a_file_by_themselves(monkeypatch):
    engine, sizes, way = engine_and_sizes()
    assert not choose_way(engine, sizes, way, allowed=None)[0].on_disk
    monkeypatch.setattr(forecast_module, "_IN_MEMORY", 1 << 16)
    chosen, forecast = choose_way(engine, sizes, way, allowed=None)
    assert chosen == replace(way, on_disk=True) and forecast.steps == ()
    assert forecast.file_bytes > 1 << 16 and " in a temporary file" in forecast.text
    monkeypatch.setattr(forecast_module, "room_for_file", lambda _: "no disk")
    assert choose_way(engine, sizes, way, allowed=None)[0] == way
    monkeypatch.setattr(forecast_module, "room_for_file", lambda _: None)
    assert choose_way(engine, sizes, way, allowed=1 << 40)[0] == way


@pytest.mark.usefixtures("small_disk")
def test_a_disk_that_fills_up_is_one_clear_error(monkeypatch):
    volume = Volume(array=smooth_ct((150, 100, 140)), affine=np.diag([2.4, 2.4, 2.4, 1.0]))
    ours = threshold_segmenter()
    ours.segment(volume)
    allowed = ours.segment(volume).forecast["host_bytes"] - 1

    class Full:
        closed = False

        def seek(self, where):
            return where

        def write(self, part):
            raise OSError(errno.ENOSPC, "No space left on device")

        def close(self):
            self.closed = True

    full = Full()
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: full)
    with pytest.raises(OutputError, match=r"kept in a file; received No space left.*TMPDIR"):
        ours.segment(volume, max_memory=allowed)
    assert full.closed
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: (_ for _ in ()).throw(OSError(13, "denied")))
    with pytest.raises(OutputError, match="Permission denied"):
        ours.segment(volume, max_memory=allowed)


def test_a_run_that_took_more_than_was_allowed_says_so():
    from gcis_runtime.pipeline.warnings import limit_warnings

    assert limit_warnings(50 << 20, 300 << 20, 200 << 20) == (
        "the run took 300 MiB of memory, 200 MiB were allowed",
    )
    for before, peak, allowed in ((300, 300, 200), (50, 200, 200), (50, 300, None), (None, None, 200)):
        assert limit_warnings(before, peak, allowed) == ()


# Calibration


KEY = {"graph": "0" * 64, "engine": "onnx 1"}
RUN = Measured(window_seconds=2.0, blend_seconds=0.5, voxel_seconds=1e-6, run_bytes=100)


def test_runs_are_averaged_and_the_most_memory_counts():
    assert calibration.find(KEY) is None
    calibration.keep(KEY, RUN)
    calibration.keep(KEY, msgspec.structs.replace(RUN, window_seconds=4.0, run_bytes=50))
    found = calibration.find(KEY)
    assert (found.runs, found.window_seconds, found.run_bytes) == (2, 3.0, 100)
    assert calibration.find(KEY | {"engine": "onnx 2"}) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schema": 1}', bytes(100)])
def test_a_damaged_calibration_is_none(content):
    calibration.keep(KEY, RUN)
    (file,) = calibration._file(KEY).parent.iterdir()
    file.write_bytes(content)
    assert calibration.find(KEY) is None
    calibration.keep(KEY, RUN)
    assert calibration.find(KEY).runs == 1


def test_a_calibration_of_something_else_under_the_same_name_is_none():
    calibration.keep(KEY, RUN)
    file = calibration._file(KEY)
    other = msgspec.structs.replace(calibration.find(KEY), key={"graph": "1"})
    file.write_bytes(msgspec.json.encode(other))
    assert calibration.find(KEY) is None


def test_where_nothing_can_be_kept_runs_go_on(monkeypatch, tmp_path, make_bundle, ct):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("GCIS_HOME", str(tmp_path / "file"))
    words = [str(ct), "--bundle", str(make_bundle()), "--engine", "onnx"]
    assert CliRunner().invoke(cli.main, words).exit_code == 0


def test_time_is_that_of_windows_and_of_voxels():
    engine, sizes, way = engine_and_sizes()
    calibration.keep(engine.key(), RUN)
    _, forecast = choose_way(engine, sizes, way, allowed=None)
    assert forecast.seconds == pytest.approx(len(way.plan.starts) * 2.5 + 120 * 64 * 90 * 1e-6)
    assert forecast.runs == 1
    calibration.keep(engine.key(), msgspec.structs.replace(RUN, run_bytes=1 << 30))
    _, more = choose_way(engine, sizes, way, allowed=None)
    assert more.host_bytes - forecast.host_bytes == pytest.approx(1 << 30, rel=0.05)


# The parts of the prediction that are exact


@pytest.mark.parametrize(("shape", "axis"), [((150, 100, 70), 2), ((64, 64, 200), 0), ((20, 20, 20), 1)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
def test_sums_are_as_large_as_predicted(shape, axis, overlap):
    plan = plan_windows(shape, WindowSpec(patch_size=(64, 64, 64), overlap=overlap), axis=axis)
    order = schedule(plan)
    wait = waiting.MemoryWaiting((4, *order.waiting_shape), (plan.axis, *plan.across), ALONE)
    buffers = Buffers(order, np.ones((64, 64, 64), np.float32), (0, 1, 2), waiting=wait, workers=ALONE)
    assert order.working_bytes(3) == buffers._strip.nbytes + buffers._room.nbytes
    assert order.waiting_bytes(3) == wait.sums.nbytes


@pytest.mark.parametrize("shape", [(31, 44, 20), (9, 60, 5)])
def test_the_gpus_workspace_is_as_large_as_predicted(shape):
    from tests.runtime.sliding.cuda.test_cuda_blend import Session

    driver = fake_cuda.FakeDriver()
    device = Session(driver, ROI).gpu
    plan = make_plan(shape, axis=1)
    groups = group_windows(plan)
    before = len(driver.calls)
    Workspace(device, plan, groups, count=3, kept=1, piece_bytes=1000)
    calls = driver.calls[before:]
    on_device = sum(arguments[0] for name, arguments in calls if name == "cuMemAlloc")
    pinned = sum(arguments[0] for name, arguments in calls if name == "cuMemAllocHost")
    device_bytes, host_bytes = workspace_bytes(plan, groups, count=3, kept=1, piece_bytes=1000)
    assert 0 <= on_device - device_bytes <= 8 and 0 <= pinned - host_bytes <= 16


def test_more_of_anything_needs_more():
    _, sizes, way = engine_and_sizes(spacing=(1.5, 1.5, 1.5))

    def total(wanted, shape=sizes.shape):
        return host_footprint(way.plan, sizes.transform, shape, wanted, graph_channels=2).total

    least = total(Wanted(values=(1,), smooth=False))
    for more in (
        Wanted(values=(1, 2), smooth=False), Wanted(values=(300,), smooth=False),
        Wanted(values=(1,), smooth=True), Wanted(values=(1,), smooth=False, masks=True),
        Wanted(values=(1,), smooth=False, probabilities=True),
    ):  # fmt: skip
        assert total(more) > least


@pytest.mark.parametrize(
    ("text", "size"), [("2G", 2 << 30), ("1.5GiB", 3 << 29), ("800m", 800 << 20), (" 64 KB", 65536), ("7", 7)]
)
def test_amounts(text, size):
    assert parse_bytes(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1G", "G", "2X", "1e9", "0.1"])
def test_what_is_no_amount_is_refused(text):
    with pytest.raises(OutputError, match="not an amount of memory"):
        parse_bytes(text)


def test_with_a_limit_cases_do_not_overlap(monkeypatch):
    jobs = [SimpleNamespace(number=n) for n in range(4)]
    held = []
    monkeypatch.setattr(cohort, "read_case", lambda _s, job, _o: (held.append("read"), job)[1])
    monkeypatch.setattr(cohort, "segment_case", lambda _s, case, _o, _c: (held.append("compute"), case)[1])
    monkeypatch.setattr(cohort, "write_case", lambda _c, _r, _o: (held.append("write"), {})[1])
    outcomes = []
    cohort.run_cases(None, jobs, limited(1 << 30), on_done=outcomes.append)
    assert held == ["read", "compute", "write"] * 4
    assert [outcome.job.number for outcome in outcomes] == [0, 1, 2, 3]


def test_the_limit_is_part_of_what_results_depend_on(make_bundle, ct):
    from gcis_runtime.runs.resume import run_key

    ours = threshold_segmenter()
    free, tight = RunOptions(), limited(1 << 30)
    assert run_key(ours, ct, free) != run_key(ours, ct, tight) == run_key(ours, ct, replace(tight))


@pytest.mark.parametrize("restore", ["smooth", "nearest"])
def test_on_a_gpu_its_memory_is_foretold_too(restore):
    """What blending takes there is exact; the engine's share is guessed, then known."""
    from tests.runtime.sliding.cuda.test_cuda_blend import Session

    engine, sizes, way = engine_and_sizes(spacing=(1.5, 1.5, 1.5))
    _, on_cpu = choose_way(engine, sizes, replace(way, restore=restore), allowed=None)
    assert on_cpu.device_bytes is None
    engine._session = Session(fake_cuda.FakeDriver(), (64, 64, 64))
    _, guessed = choose_way(engine, sizes, replace(way, restore=restore), allowed=None)
    assert guessed.device_bytes > 64**3 * 4 * 4
    calibration.keep(engine.key(), msgspec.structs.replace(RUN, device_bytes=5 << 30))
    _, known = choose_way(engine, sizes, replace(way, restore=restore), allowed=None)
    assert known.device_bytes - guessed.device_bytes == pytest.approx(5 << 30, rel=0.05)
    assert "GiB of the GPU's" in known.text


def test_one_image_too_large_fails_alone(make_bundle, tmp_path, monkeypatch):
    monkeypatch.setattr(forecast_module, "resident_bytes", lambda: 100 << 20)
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
