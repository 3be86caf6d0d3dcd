"""Test runs over many images: overlap, failures, resumption, interrupts, a kill, two runs on one folder."""

from __future__ import annotations

import csv
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner

from gcis_runtime.cli import run as cli
from gcis_runtime.cli.display import Display
from gcis_runtime.errors import ImageError, OutputError
from gcis_runtime.images import nifti
from gcis_runtime.images.files import read_volume
from gcis_runtime.pipeline import run_pass as passes
from gcis_runtime.pipeline.options import Callbacks, SegmentOptions
from gcis_runtime.platforms import try_lock
from gcis_runtime.runs import case as runs
from gcis_runtime.runs import cohort
from gcis_runtime.runs.callbacks import RunCallbacks
from gcis_runtime.runs.cohort import run_cases
from gcis_runtime.runs.options import RunOptions
from gcis_runtime.runs.outcome import Outcome
from gcis_runtime.system.folder_lock import NAME, folder_lock
from tests.support.bundles_and_images import write_ct


@pytest.fixture
def run(monkeypatch, tmp_path, make_bundle):
    monkeypatch.setenv("GCIS_HOME", str(tmp_path / "home"))
    bundle = make_bundle()

    def invoke(*arguments):
        words = [*arguments, "--bundle", bundle, "--engine", "onnx", "-o", tmp_path / "out"]
        return CliRunner().invoke(cli.main, [str(word) for word in words])

    return invoke


@pytest.fixture
def cts(tmp_path):
    (tmp_path / "cts").mkdir()
    for seed, name in enumerate("abc"):
        write_ct(tmp_path / "cts" / f"{name}.nii.gz", shape=(20, 18, 16), seed=seed)
    return tmp_path / "cts"


def summary(folder):
    """Return both summaries, which must agree."""
    document = json.loads((folder / "summary.json").read_text())
    with (folder / "summary.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(r["case"], r["status"]) for r in rows] == [(c["case"], c["status"]) for c in document["cases"]]
    assert sum(document["counts"].values()) == len(rows)
    return document, {row["case"]: row for row in rows}


def statuses(folder):
    return {case["case"]: case["status"] for case in summary(folder)[0]["cases"]}


def visible(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_a_folder_goes_on_after_a_failure(run, cts, tmp_path):
    (cts / "b.nii.gz").write_bytes((cts / "b.nii.gz").read_bytes()[:900])
    result = run(cts, "--statistics", "--masks", "--probability")
    out = tmp_path / "out"
    assert result.exit_code == 2
    errors = [line for line in result.stderr.splitlines() if line.startswith("gcis-run: error")]
    assert len(errors) == 1 and "b.nii.gz is damaged" in errors[0]
    assert result.stdout.splitlines() == ["2 done, 1 failed", f"wrote {out / 'summary.csv'}"]
    document, rows = summary(out)
    assert statuses(out) == {"a": "done", "b": "failed", "c": "done"}
    assert "is damaged" in rows["b"]["error"] and rows["b"]["bone mL"] == ""
    report = json.loads((out / "a_seg.json").read_text())
    volumes = {s["name"]: s["volume_ml"] for s in report["structures"]}
    assert {n: float(rows["a"][f"{n} mL"]) for n in volumes} == volumes and volumes["bone"] > 0
    assert float(rows["a"]["total_s"]) == pytest.approx(sum(report["seconds"].values()), abs=1e-3)
    assert document["bundle"]["sha256"] == report["bundle"]["sha256"]
    assert visible(out) == sorted([
        *(f"{n}_seg{end}" for n in "ac" for end in (".json", ".nii.gz", "_statistics.csv")),
        *(f"{n}_seg_{kind}/{s}.nii.gz" for n in "ac" for kind in ("masks", "probability")
          for s in ("bone", "liver")),
        "statistics.csv", "summary.csv", "summary.json",
    ])  # fmt: skip
    with (out / "statistics.csv").open(newline="") as file:
        numbers = list(csv.DictReader(file))
    assert [(n["case"], n["structure"]) for n in numbers] == [(c, s) for c in "ac" for s in ("bone", "liver")]
    assert float(numbers[0]["mean_hu"]) == report["structures"][0]["statistics"]["mean_hu"]


def test_a_probability_is_above_one_half_where_the_mask_is(run, cts, tmp_path):
    assert run(cts / "a.nii.gz", "--masks", "--probability", "--json").exit_code == 0
    out = tmp_path / "out"
    for name in ("bone", "liver"):
        mask = read_volume(out / "a_seg_masks" / f"{name}.nii.gz").array
        probability = read_volume(out / "a_seg_probability" / f"{name}.nii.gz").array
        assert probability.min() >= 0 and probability.max() <= 1
        assert probability[mask > 0].min() > 0.499 and probability[mask == 0].max() < 0.501
        assert mask.any() and len(np.unique(probability)) > 20


def test_finished_cases_are_left_out(run, cts, tmp_path, make_bundle):
    out = tmp_path / "out"
    assert run(cts).exit_code == 0

    def again(*arguments):
        result = run(cts, "--resume", *arguments)
        assert result.exit_code == 0, result.output
        return "".join(name for name, status in statuses(out).items() if status == "done")

    before = {p: p.stat().st_mtime_ns for p in out.glob("*_seg*")}
    assert again() == ""
    assert {p: p.stat().st_mtime_ns for p in out.glob("*_seg*")} == before
    assert summary(out)[1]["a"]["bone mL"] != "" and summary(out)[0]["counts"]["skipped"] == 3
    (out / "a_seg.nii.gz").unlink()
    assert again() == "a"
    (out / "b_seg.json").unlink()
    assert again() == "b"
    (out / "c_seg.json").write_text("{")
    assert again() == "c"
    os.utime(cts / "c.nii.gz", ns=(1, 1))
    assert again() == "c"
    assert again("--restore", "published") == "abc"
    assert again("--restore", "nearest") == "abc"
    assert again("--restore", "nearest", "--prompt", "bone") == "abc"
    assert again("--restore", "nearest", "--prompt", "bone", "--statistics") == "abc"
    assert again("--restore", "nearest", "--prompt", "bone") == ""  # more than is asked for is there
    assert again("--prompt", "bone", "--bundle", make_bundle("other.gcis", name="other")) == "abc"
    assert run(cts).exit_code == 0
    assert set(statuses(out).values()) == {"done"}  # without --resume all are replaced


def test_into_a_pipe_go_only_errors_and_warnings(run, cts, monkeypatch):
    (cts / "d.nii.gz").write_bytes(b"no image")
    lines = run(cts).stderr.splitlines()
    assert all(line.startswith(("gcis-run: warning:", "gcis-run: error:")) for line in lines)
    assert [sum(f"/{name}.nii.gz" in line for line in lines) >= 1 for name in "abcd"] == [True] * 4
    assert sum(line.startswith("gcis-run: error:") for line in lines) == 1
    assert run(cts, "--json").stderr.splitlines() == lines


def test_a_table_gives_spreadsheets_no_formula(run, cts, tmp_path):
    (cts / "list.csv").write_text('image,name\na.nii.gz,"=HYPERLINK(1)"\nb.nii.gz,-b\nc.nii.gz,@c=1\n')
    assert run(cts / "list.csv", "--statistics").exit_code == 0
    out = tmp_path / "out"
    with (out / "summary.csv").open(newline="") as file:
        assert [row["case"] for row in csv.DictReader(file)] == ["'=HYPERLINK(1)", "'-b", "'@c=1"]
    with (out / "statistics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["case"] for row in rows} == {"'=HYPERLINK(1)", "'-b", "'@c=1"}
    assert any(float(row["x_min_mm"]) < 0 for row in rows)  # numbers stay numbers
    assert [c["case"] for c in json.loads((out / "summary.json").read_text())["cases"]][1] == "-b"


def test_an_interrupt_keeps_what_is_done_and_resumes(run, cts, tmp_path, monkeypatch):
    real, calls = passes.preprocess, []

    def interrupted(*arguments, **keywords):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return real(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(passes, "preprocess", interrupted)
        result = run(cts)
    out = tmp_path / "out"
    assert result.exit_code == 130
    assert [text for text in result.stderr.splitlines() if text][-2:] == [
        "gcis-run: 1 done, 2 not done; repeat the command with --resume to continue",
        "gcis-run: interrupted",
    ]
    assert statuses(out) == {"a": "done", "b": "waiting", "c": "waiting"}
    assert visible(out) == ["a_seg.json", "a_seg.nii.gz", "summary.csv", "summary.json"]
    assert run(cts, "--resume").exit_code == 0
    assert statuses(out) == {"a": "skipped", "b": "done", "c": "done"}


KILLED = """
import os, sys
from gcis_runtime.cli import run
from gcis_runtime.images import nifti
real, calls = nifti._write_stream, []
def dying(stream, image, array):
    calls.append(1)
    if len(calls) == 2:
        stream.write(bytes(100))
        os.kill(os.getpid(), 9)
    real(stream, image, array)
nifti._write_stream = dying
run.main(sys.argv[1:])
"""


def test_a_kill_leaves_whole_files_and_a_true_summary(run, cts, tmp_path):
    out = tmp_path / "out"
    words = [cts, "--bundle", tmp_path / "b.gcis", "--engine", "onnx", "-o", out]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *map(str, words)], check=False, capture_output=True
    )
    assert killed.returncode == -signal.SIGKILL
    assert statuses(out)["a"] == "done" and statuses(out)["c"] == "waiting"
    kept = [name for name in visible(out) if not name.startswith(".")]
    assert kept == ["a_seg.json", "a_seg.nii.gz", "summary.csv", "summary.json"]
    read_volume(out / "a_seg.nii.gz")
    assert (out / NAME).exists()  # nobody holds it any more
    (left,) = out.glob(".*.part")
    assert left.name.startswith(".b_seg.nii.gz.")
    others = [out / ".b_seg.nii.gz.part", out / ".download.0123456789.part", out / "b.01234567.part"]
    for other in others:
        other.touch()
    assert run(cts, "--resume").exit_code == 0
    assert statuses(out) == {"a": "skipped", "b": "done", "c": "done"}
    assert not (out / NAME).exists() and not left.exists()
    assert all(other.exists() for other in others)  # none of ours


def test_what_a_killed_run_left_of_one_image_goes_with_the_next_run(run, cts, tmp_path):
    words = [cts / "a.nii.gz", "--bundle", tmp_path / "b.gcis", "--engine", "onnx", "--masks", "-o"]
    program = [sys.executable, "-c", KILLED, *map(str, words), str(tmp_path / "out")]
    assert subprocess.run(program, check=False, capture_output=True).returncode == -signal.SIGKILL
    assert [p.suffix for p in (tmp_path / "out" / "a_seg_masks").iterdir()] == [".part"]
    assert run(cts / "a.nii.gz", "--masks").exit_code == 0
    assert not [name for name in visible(tmp_path / "out") if name.endswith(".part")]


def test_a_disk_that_fills_up_ends_the_run_and_leaves_the_last_summary(run, cts, tmp_path, monkeypatch):
    from gcis_runtime.runs import summary_document as module

    real, calls = module.write_json, []

    def full(path, document):
        calls.append(1)
        if len(calls) > 2:
            raise OutputError(f"{path} cannot be written", received="No space left on device")
        real(path, document)

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_json", full)
        result = run(cts)
    assert result.exit_code == 2
    assert result.stderr.splitlines()[-1].endswith("cannot be written; received No space left on device")
    assert statuses(tmp_path / "out") == {"a": "done", "b": "waiting", "c": "waiting"}
    assert run(cts, "--resume").exit_code == 0
    assert set(statuses(tmp_path / "out").values()) == {"skipped", "done"}


def test_two_runs_on_one_folder(run, cts, tmp_path):
    with folder_lock(tmp_path / "out"):
        result = run(cts)
        assert result.exit_code == 2
        assert (
            f"out is in use by another process of gCIS; received process {os.getpid()} on " in result.stderr
        )
        assert visible(tmp_path / "out") == [NAME]
    assert run(cts).exit_code == 0
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot be written"), folder_lock(tmp_path / "file"):
        pass


def test_a_lock_that_was_removed_while_waiting_is_not_held(tmp_path):
    seen = []

    def late(file):
        locked = try_lock(file)
        if not seen:
            (tmp_path / NAME).unlink()  # what its last holder does
        seen.append(os.fstat(file).st_ino)
        return locked

    with folder_lock(tmp_path, try_lock=late):
        assert (tmp_path / NAME).stat().st_ino == seen[-1]
    assert len(seen) == 2


def test_usage(run, cts, tmp_path, monkeypatch):
    for words in ([cts], [cts / "*.nii.gz"], [cts / "a.nii.gz", "--resume"]):
        result = CliRunner().invoke(cli.main, list(map(str, words)))
        assert result.exit_code == 2 and "need -o FOLDER" in result.stderr
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "summary.csv").write_text("image\n../cts/a.nii.gz\n")
    result = run(tmp_path / "out" / "summary.csv")
    assert result.exit_code == 2 and "would be replaced by the summary of this run" in result.stderr
    assert (tmp_path / "out" / "summary.csv").read_text().startswith("image\n")
    assert run(cts, "--truth", cts / "a.nii.gz").exit_code == 2


# The line itself, with stand-ins for reading, computing and writing.


class Thing:
    """Stub of an image in memory."""


def line(monkeypatch, *, read, compute, write):
    jobs = [SimpleNamespace(number=n) for n in range(6)]
    monkeypatch.setattr(cohort, "read_case", lambda _segmenter, job, _options: read(job))
    monkeypatch.setattr(cohort, "segment_case", lambda _s, case, _o, _c: compute(case))
    monkeypatch.setattr(cohort, "write_case", lambda case, _result, _options: write(case))
    return jobs


def test_reading_computing_and_writing_overlap_with_three_cases_in_memory(monkeypatch):
    alive, most = weakref.WeakSet(), []
    reading, writing = ([threading.Event() for _ in range(6)] for _ in range(2))
    computed = [threading.Event() for _ in range(6)]

    def read(job):
        case = Thing()
        case.number = job.number
        alive.add(case)
        reading[job.number].set()
        return case

    def compute(case):
        n = case.number
        assert n == 5 or reading[n + 1].wait(10)  # the next is read meanwhile
        assert n == 0 or writing[n - 1].wait(10)  # the last is written meanwhile
        gc.collect()
        most.append(len(alive))
        computed[n].set()

    def write(case):
        writing[case.number].set()
        assert case.number == 5 or computed[case.number + 1].wait(10)
        return {"number": case.number}

    jobs = line(monkeypatch, read=read, compute=compute, write=write)
    outcomes: list[Outcome] = []
    run_cases(None, jobs, RunOptions(), on_done=outcomes.append)
    assert [o.error for o in outcomes] == [None] * 6
    assert [o.report["number"] for o in outcomes] == list(range(6))
    assert max(most) == 3
    gc.collect()
    assert not alive
    assert not [t for t in threading.enumerate() if t.name.startswith("gcis-")]


def test_any_error_is_one_cases_own_and_outcomes_keep_their_order(monkeypatch):
    def fail(where, error):
        def step(thing):
            if thing.number == where:
                raise error
            return thing

        return step

    jobs = line(
        monkeypatch,
        read=fail(1, ImageError("unreadable")),
        compute=fail(3, ValueError("a bug")),
        write=fail(4, OSError(28, "No space left on device")),
    )
    outcomes: list[Outcome] = []
    run_cases(None, jobs, RunOptions(), on_done=outcomes.append)
    assert [o.job.number for o in outcomes] == list(range(6))
    assert [type(o.error) for o in outcomes] == [
        type(None), ImageError, type(None), ValueError, OSError, type(None),
    ]  # fmt: skip
    with pytest.raises(ValueError, match="a bug"):
        run_cases(None, jobs[3:4], RunOptions(), on_done=outcomes.append)
    run_cases(None, [], RunOptions(), on_done=outcomes.append)
    assert len(outcomes) == 6


def test_a_case_that_is_written_is_told_while_the_next_one_is_computed(monkeypatch):
    """Otherwise the summary would list the case as waiting for minutes, or permanently after a kill."""
    outcomes: list[Outcome] = []
    written = [threading.Event() for _ in range(6)]

    def compute(_segmenter, case, _options, callbacks):
        if case.number:
            assert written[case.number - 1].wait(10)
            for window in range(1, 200):  # the writer's thread ends a moment after it says so
                callbacks.on_progress(window, 200)
                if len(outcomes) == case.number:
                    break
                time.sleep(0.02)
            assert len(outcomes) == case.number

    def write(case):
        written[case.number].set()
        return {}

    jobs = line(monkeypatch, read=lambda job: job, compute=None, write=write)
    monkeypatch.setattr(cohort, "segment_case", compute)
    seen: list[int] = []
    run_cases(
        None,
        jobs,
        RunOptions(),
        on_done=outcomes.append,
        callbacks=RunCallbacks(on_progress=lambda job: lambda *_: seen.append(job.number)),
    )
    assert [(o.job.number, o.error) for o in outcomes] == [(n, None) for n in range(6)]
    assert set(seen) == {1, 2, 3, 4, 5}


def test_an_error_while_a_case_is_told_during_the_next_ends_the_run(monkeypatch):
    jobs = line(monkeypatch, read=lambda job: job, compute=None, write=lambda case: {})
    told = []

    def compute(_segmenter, case, _options, callbacks):
        for window in range(1, 200 if case.number else 1):
            callbacks.on_progress(window, 200)
            time.sleep(0.02)

    def done(outcome):
        told.append(outcome)
        raise OutputError("the summary cannot be written")

    monkeypatch.setattr(cohort, "segment_case", compute)
    with pytest.raises(OutputError, match="summary cannot be written"):
        run_cases(None, jobs, RunOptions(), on_done=done)
    assert [(o.job.number, o.error) for o in told] == [(0, None)]


def test_an_error_while_a_case_is_told_is_is_not_the_next_cases(monkeypatch):
    """A summary that cannot be written ends the run; no image counts as failed for it."""
    jobs = line(monkeypatch, read=lambda job: job, compute=lambda case: case, write=lambda case: {})
    told = []

    def done(outcome):
        told.append(outcome)
        raise OutputError("the summary cannot be written")

    with pytest.raises(OutputError, match="summary cannot be written"):
        run_cases(None, jobs, RunOptions(), on_done=done)
    assert [(o.job.number, o.error) for o in told[:1]] == [(0, None)]
    assert all(o.error is None for o in told)


def test_an_unexpected_error_names_its_kind_in_the_line(capsys):
    jobs = [SimpleNamespace(image=Path(f"{n}.nii"), name=n) for n in "ab"]
    display = Display("gcis-run", quiet=True)
    display.set_jobs(jobs)
    outcome = Outcome(job=jobs[1], error=ValueError("a bug"))
    display.on_done(outcome)
    assert outcome.message(several=True) == "b.nii: ValueError: a bug"
    assert capsys.readouterr().err == "gcis-run: error: b.nii: ValueError: a bug\n"


def test_one_image_under_two_names_is_two_cases(capsys, monkeypatch):
    jobs = [SimpleNamespace(image=Path("ct.nii.gz"), name=n) for n in "ab"]
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    display = Display("gcis-run", quiet=True)
    display.set_jobs(jobs)
    for job in jobs:
        display.on_progress(job)(1, 2)
    assert capsys.readouterr().err == "\r[1/2] a: window 1 of 2\r[2/2] b: window 1 of 2"


def test_people_see_which_case_runs(capsys, monkeypatch):
    jobs = [SimpleNamespace(image=Path(f"{n}.nii.gz"), name=n) for n in "ab"]
    assert Display("gcis-run", quiet=True).on_progress(jobs[1]) is None
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    display = Display("gcis-run", quiet=True)
    display.set_jobs(jobs)
    show = display.on_progress(jobs[1])
    show(3, 7)
    assert capsys.readouterr().err == "\r[2/2] b: window 3 of 7"
    show(7, 7)
    assert capsys.readouterr().err.endswith("\r\033[K")


def test_the_report_vouches_only_for_what_was_written_with_it(tmp_path, make_bundle, cts, monkeypatch):
    """A run that is killed between label map and report must leave no older report next to the new map."""
    from gcis_runtime import Segmenter
    from gcis_runtime.runs.inputs import find_images
    from gcis_runtime.runs.outputs import plan_jobs

    (job,) = plan_jobs(find_images([cts / "a.nii.gz"]), str(tmp_path / "o"))
    with Segmenter.open(make_bundle(), engine="onnx") as opened:
        case = runs.read_case(opened, job, RunOptions())
        result = runs.segment_case(opened, case, RunOptions(), Callbacks())
    runs.write_case(case, result, RunOptions())
    assert job.report.is_file()

    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nifti, "_write_stream", full)
    with pytest.raises(OutputError, match="No space left"):
        runs.write_case(case, result, RunOptions())
    assert job.labels.is_file() and not job.report.exists()


def test_with_a_limit_cases_do_not_overlap(monkeypatch):
    jobs = [SimpleNamespace(number=n) for n in range(4)]
    held = []
    monkeypatch.setattr(cohort, "read_case", lambda _s, job, _o: (held.append("read"), job)[1])
    monkeypatch.setattr(cohort, "segment_case", lambda _s, case, _o, _c: (held.append("compute"), case)[1])
    monkeypatch.setattr(cohort, "write_case", lambda _c, _r, _o: (held.append("write"), {})[1])
    outcomes = []
    cohort.run_cases(
        None, jobs, RunOptions(segment=SegmentOptions(max_memory=1 << 30)), on_done=outcomes.append
    )
    assert held == ["read", "compute", "write"] * 4
    assert [outcome.job.number for outcome in outcomes] == [0, 1, 2, 3]
