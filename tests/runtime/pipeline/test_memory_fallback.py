"""Test out-of-memory errors: the batch is halved, then engine or device change; results stay complete."""

from __future__ import annotations

import csv
import json
from types import SimpleNamespace

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from gcis_runtime import Segmenter, Volume
from gcis_runtime.cli import run as cli
from gcis_runtime.engines import memory_fallback as fallback
from gcis_runtime.engines.options import EngineOptions
from gcis_runtime.errors import DeviceMemoryError, EngineError
from gcis_runtime.pipeline import open_engine, segmenter
from gcis_runtime.pipeline.loaded_engine import LoadedEngine
from tests.support.bundles_and_images import smooth_ct, write_ct
from tests.support.fake_session import ThresholdSession, threshold_bundle, threshold_segmenter

AUTO = {"cpu": ("openvino", "onnx"), "cuda": ("trt", "onnx")}
VOLUME = Volume(array=smooth_ct((70, 66, 90)), affine=np.diag([-2.0, -2.0, 2.0, 1.0]))
RUNGS = [("trt", "cuda", 4), ("trt", "cuda", 2), ("trt", "cuda", 1), ("onnx", "cuda", 1)]
RUNGS += [("openvino", "cpu", 1), ("onnx", "cpu", 1)]


class Failing(ThresholdSession):
    """Runs out of memory at the `fail`-th window; None: never."""

    def __init__(self, name, device, batch, fail, error=DeviceMemoryError):
        super().__init__(before=self._count)
        self.name, self.device, self.batch = name, device, batch
        self.fail, self.error, self.windows = fail, error, 0

    def _count(self):
        self.windows += 1
        if self.windows == self.fail:
            raise self.error("the card is full")


class Openings:
    """Opens sessions by a script: `"load"` fails on loading, a number at that window, `"missing"` always."""

    def __init__(self, script, *, most=4, error=DeviceMemoryError):
        self.script, self.most, self.error, self.made, self.tried = script, most, error, [], []

    def __call__(self, _bundle, options):
        engine, device, batch = options.engine, options.device, options.batch
        name = AUTO[device][0] if engine == "auto" else engine
        batch = batch or (1 if device == "cpu" else self.most)
        self.tried.append((name, device, batch))
        assert all(session.closed == 1 for session in self.made), "one session at a time"
        what = self.script.get((name, device, batch))
        if what == "load":
            raise self.error("no room to load")
        if what == "missing":
            raise EngineError("not installed")
        self.made.append(Failing(name, device, batch, what, self.error))
        return self.made[-1]


@pytest.fixture(autouse=True)
def engines(monkeypatch):
    monkeypatch.setattr(fallback, "automatic_engines", lambda _bundle, device: AUTO[device])
    monkeypatch.setattr(open_engine, "free_device_memory", lambda _device: None)
    monkeypatch.setattr(fallback, "_most_windows", lambda _bundle: 4)


def opened(openings, **opening):
    return Segmenter(LoadedEngine.open(threshold_bundle(), EngineOptions(**opening), opener=openings))


UNDISTURBED = threshold_segmenter().segment(VOLUME)


def test_the_volume_has_several_windows_and_both_labels():
    assert UNDISTURBED.windows >= 6 and set(np.unique(UNDISTURBED.labels)) == {0, 1, 2}
    assert UNDISTURBED.steps == ()


@settings(max_examples=40, deadline=None)
@given(
    script=st.fixed_dictionaries(
        {rung: st.sampled_from([None, "load", "missing", 1, 2, UNDISTURBED.windows]) for rung in RUNGS}
    ),
    error=st.sampled_from([DeviceMemoryError, MemoryError]),
)
def test_the_result_is_that_of_an_undisturbed_run_or_there_is_none(script, error):
    script = script | {RUNGS[0]: "load" if script[RUNGS[0]] == "missing" else script[RUNGS[0]]}
    openings = Openings(script, error=error)
    good = next((rung for rung in RUNGS if script[rung] is None), None)
    result, failure = None, None
    try:
        with opened(openings, device="cuda") as ours:
            result = ours.segment(VOLUME)
    except (DeviceMemoryError, MemoryError) as raised:
        failure = raised
    assert all(session.closed == 1 for session in openings.made)
    reached = RUNGS.index(good) + 1 if good else len(RUNGS)
    assert openings.tried == RUNGS[:reached]
    if good is None:
        assert result is None and "no other configuration is left" in str(failure)
        return
    np.testing.assert_array_equal(result.labels, UNDISTURBED.labels)
    assert (result.engine.name, result.engine.device) == good[:2]
    assert len(result.steps) == reached - 1
    for step, rung in zip(result.steps, RUNGS, strict=False):
        assert f"{rung[0]} on {rung[1]}" in step or "auto on cuda" in step
        assert ("cannot be opened" if script[rung] == "missing" else "out of memory") in step


def test_an_engine_that_was_named_is_kept_and_only_its_batch_halves():
    openings = Openings(dict.fromkeys(RUNGS, 1))
    with opened(openings, engine="trt", device="cuda") as ours:
        with pytest.raises(DeviceMemoryError, match=r"trt on cuda, window batch 1.*Without --engine"):
            ours.segment(VOLUME)
        assert openings.tried == RUNGS[:3]
        openings.script = {RUNGS[0]: None}
        assert ours.segment(VOLUME).steps == (), "the next volume begins with what was asked for"
    assert openings.tried[3:] == RUNGS[:1]


def test_what_was_asked_for_and_is_not_there_is_an_error_and_no_reason_to_fall_back():
    openings = Openings({RUNGS[0]: "missing"})
    with pytest.raises(EngineError, match="not installed"):
        opened(openings, device="cuda")
    assert openings.tried == RUNGS[:1]


def test_without_anything_smaller_the_engines_own_error_is_raised():
    ours = Segmenter(LoadedEngine(threshold_bundle(), Failing("onnx", "cpu", 1, 2, MemoryError)))
    with pytest.raises(MemoryError, match="the card is full"):
        ours.segment(VOLUME)


def test_a_failed_attempt_leaves_no_arrays_behind():
    """The traceback of the error would keep the arrays while the next attempt needs the memory."""
    import gc
    import weakref

    from gcis_runtime.pipeline import run_pass as passes

    alive, real = weakref.WeakSet(), passes.LabelSink
    openings = Openings({RUNGS[4]: 2})

    class Sink(real):
        def __init__(self, **arguments):
            gc.collect()
            assert not alive
            super().__init__(**arguments)
            alive.add(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passes, "LabelSink", Sink)
        with opened(openings) as ours:
            assert len(ours.segment(VOLUME).steps) == 1


@pytest.fixture
def run(monkeypatch, tmp_path, make_bundle):
    monkeypatch.setenv("GCIS_HOME", str(tmp_path / "home"))
    bundle = make_bundle()

    def invoke(openings, *arguments):
        monkeypatch.setattr(segmenter, "open_session", openings)
        words = [*arguments, "--bundle", bundle, "-o", tmp_path / "out"]
        return CliRunner().invoke(cli.main, [str(word) for word in words])

    return invoke


@pytest.fixture
def cts(tmp_path):
    (tmp_path / "cts").mkdir()
    for seed, name in enumerate("abc"):
        write_ct(tmp_path / "cts" / f"{name}.nii.gz", shape=(20, 18, 16), seed=seed)
    return tmp_path / "cts"


def test_a_cohort_goes_on_with_the_engine_that_fits(run, cts, tmp_path):
    openings = Openings({RUNGS[4]: 2})  # the second image's window
    result = run(openings, cts)
    assert result.exit_code == 0, result.output
    assert "note: " in result.stderr and "out of memory with openvino on cpu" in result.stderr
    document = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [len(case["steps"]) for case in document["cases"]] == [0, 1, 1]
    with (tmp_path / "out" / "summary.csv").open(newline="") as file:
        assert ["openvino" in row["warnings"] for row in csv.DictReader(file)] == [False, True, True]
    engines = [json.loads((tmp_path / "out" / f"{n}_seg.json").read_text()) for n in "abc"]
    assert [report["engine"]["name"] for report in engines] == ["openvino", "onnx", "onnx"]
    assert [report["key"]["engine"] for report in engines] == ["openvino", "onnx", "onnx"]


def test_an_image_that_never_fits_fails_alone_and_leaves_nothing(run, cts, tmp_path):
    class Once(Openings):
        """After the second image has failed on both engines, memory is available again."""

        def __call__(self, *arguments):
            if len(self.made) == 2:
                self.script = {}
            return super().__call__(*arguments)

    result = run(Once({RUNGS[4]: 2, RUNGS[5]: 1}), cts)
    assert result.exit_code == 2
    document = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [case["status"] for case in document["cases"]] == ["done", "failed", "done"]
    assert "no other configuration is left" in document["cases"][1]["error"]
    assert not list((tmp_path / "out").glob("b_seg*"))
    assert json.loads((tmp_path / "out" / "c_seg.json").read_text())["steps"] == []


def test_the_engines_that_may_follow_are_those_that_are_there(monkeypatch):
    from gcis_runtime.engines import factory

    bundle = SimpleNamespace(manifest=SimpleNamespace(engines=[SimpleNamespace(backend="trt-rtx")]))
    there = {"openvino", "tensorrt_rtx"}
    monkeypatch.setattr(factory, "_installed", lambda name: name in there)
    assert factory.automatic_engines(bundle, "cpu") == ("openvino", "onnx")
    assert factory.automatic_engines(bundle, "cuda") == ("trt-rtx", "onnx")
    there.clear()
    assert factory.automatic_engines(bundle, "cpu") == factory.automatic_engines(bundle, "cuda") == ("onnx",)
