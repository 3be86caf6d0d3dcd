"""Test the processes of a trial: candidates that end or stop them, and the command that starts a trial."""

from __future__ import annotations

import json
import time

import pytest
from click.testing import CliRunner

from gcis_runtime.bundles.bundle import Bundle, open_bundle
from gcis_runtime.cli.bundle import main
from gcis_runtime.engines.factory import open_session
from gcis_runtime.engines.onnx.cuda_settings import CudaSettings
from gcis_runtime.engines.onnx.measured_settings import find_settings
from gcis_runtime.engines.options import EngineOptions
from gcis_runtime.errors import EngineError, OutputError
from gcis_runtime.pipeline.trial import run_trial as module
from gcis_runtime.pipeline.trial.run_trial import run_trial
from tests.support.batch_bundle import add_batches

EXHAUSTIVE, RECORDED = CudaSettings(search="EXHAUSTIVE"), CudaSettings(graph=True)
BOTH = CudaSettings(search="EXHAUSTIVE", graph=True)

CHILD = """
import os, signal, sys, time
import onnxruntime as ort
import numpy as np
from gcis_runtime.bundles import bundle as bundle_module
from gcis_runtime.engines import machine_rows
from gcis_runtime.engines.gpu import device, probe
from tests.support import fake_cuda, fake_ort_cuda
from tests.support.bundles_and_images import ROI
driver = fake_cuda.FakeDriver()
probe.probe_driver = fake_cuda.driver_with(fake_cuda.gpu())
device.import_bindings = lambda name: driver
fake_ort_cuda.install(ort, driver, setattr)
from gcis_runtime.pipeline.trial import __main__ as child, measure
make = np.random.default_rng(0).random
windows = [make((1, 1, *ROI), dtype=np.float32) for _ in range(3)]
measure.check_windows = lambda *_: windows
measure.TURNS, now = 3, [0.0]
measure.measure.__kwdefaults__.update(windows_per_turn=1, clock=lambda: now[0])
compute = fake_ort_cuda.Bound.compute
def faulty(self, options):
    exhaustive = self.options["cudnn_conv_algo_search"] == "EXHAUSTIVE"
    recorded = "enable_cuda_graph" in self.options
    now[0] += 0.5 if exhaustive and recorded else 1.0
    FAULT
    compute(self, options)
fake_ort_cuda.Bound.compute = faulty
child.main()
"""


def child(fault="pass"):
    return ("-c", CHILD.replace("FAULT", fault))


@pytest.fixture
def bundle(make_bundle, cuda_ort):
    return open_bundle(make_bundle())


def problems(record):
    return {outcome.settings: outcome.problem for outcome in record.outcomes}


def test_a_trial_measures_in_a_process_and_is_stored(bundle):
    record = run_trial(bundle, "cuda", command=child())
    assert problems(record) == {EXHAUSTIVE: "", RECORDED: "", BOTH: ""}
    assert [outcome.window_seconds for outcome in record.outcomes] == [1.0, 1.0, 0.5]
    assert record.settings == BOTH and record.reason.startswith(
        "fastest in the trial on this machine (500 ms"
    )
    assert find_settings(bundle, precision="fp32", device="cuda") == record
    session = open_session(bundle, EngineOptions(device="cuda"))
    assert session.settings == BOTH
    session.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("os.abort()", "the process was ended by SIGABRT"),
        ("os._exit(3)", "the process of the trial ended with exit code 3"),
        ("sys.exit('no such algorithm')", "no such algorithm"),
    ],
)
def test_a_process_that_ends_fails_only_its_candidate(bundle, fault, reason):
    found = problems(run_trial(bundle, "cuda", command=child(f"if exhaustive and not recorded: {fault}")))
    assert found == {EXHAUSTIVE: reason, RECORDED: "", BOTH: ""}


def test_plain_settings_that_fail_are_an_error_and_nothing_is_stored(bundle):
    with pytest.raises(EngineError, match="plain settings of ONNX Runtime do not work on this GPU") as error:
        run_trial(bundle, "cuda", command=child("raise ValueError('CUDA failure 100')"))
    assert "CUDA failure 100" in str(error.value)
    assert find_settings(bundle, precision="fp32", device="cuda") is None


@pytest.mark.slow
def test_a_gpu_that_is_lost_ends_the_trial_with_what_is_known(bundle, tmp_path):
    mark = tmp_path / "lost"
    fault = f"""
    import pathlib
    mark = pathlib.Path({str(mark)!r})
    if mark.exists(): raise RuntimeError("CUDA failure 999")
    if recorded: mark.touch(); os.abort()
    """
    found = problems(run_trial(bundle, "cuda", command=child(fault)))
    assert found[EXHAUSTIVE] == "" and "SIGABRT" in found[RECORDED] and "CUDA failure 999" in found[BOTH]


@pytest.mark.slow
def test_a_process_that_stops_is_ended(bundle, monkeypatch):
    monkeypatch.setattr(module, "GRACE", 0.0)
    begun = time.monotonic()
    record = run_trial(bundle, "cuda", seconds=20.0, command=child("time.sleep(900) if exhaustive else None"))
    assert time.monotonic() - begun < 300
    found = problems(record)
    assert found[EXHAUSTIVE].startswith("took more than") and record.settings == CudaSettings()
    assert found[RECORDED] == found[BOTH] == "not measured within the 20 s of the trial"


@pytest.mark.slow
@pytest.mark.parametrize("printed", ["print('hello', flush=True)", "os.write(1, b'{}\\n')"])
def test_output_that_is_no_outcome_fails_the_candidate(bundle, printed):
    found = problems(run_trial(bundle, "cuda", command=child(f"if exhaustive and not recorded: {printed}")))
    assert found[EXHAUSTIVE] == "the process printed something else than an outcome"
    assert found[RECORDED] == ""


def test_nothing_is_imported_from_the_working_directory(bundle, tmp_path, monkeypatch):
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "msgspec.py").write_text("raise SystemExit('imported from the data')")
    monkeypatch.chdir(folder)
    with pytest.raises(EngineError, match="no NVIDIA GPU can be used"):
        run_trial(bundle, "cuda")


def test_a_bundle_that_was_replaced_is_not_measured(bundle, make_bundle):
    other = open_bundle(add_batches(make_bundle("other.gcis"), 2))
    mixed = Bundle(folder=other.folder, manifest=bundle.manifest, sha256=bundle.sha256)
    with pytest.raises(EngineError, match="the bundle was replaced during the trial"):
        run_trial(mixed, "cuda", command=child())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["open_cache_beside", "store_settings"])
def test_a_result_that_cannot_be_stored_is_an_error(bundle, monkeypatch, name):
    monkeypatch.setattr(module, name, lambda *_, **__: None)
    with pytest.raises(OutputError, match="the result of a trial cannot be stored"):
        run_trial(bundle, "cuda", command=child())


@pytest.mark.slow
def test_verify_runs_the_trial_on_request(bundle, monkeypatch):
    monkeypatch.setattr(run_trial, "__kwdefaults__", run_trial.__kwdefaults__ | {"command": child()})
    done = CliRunner().invoke(main, ["verify", str(bundle.folder), "--device", "cuda", "--trial", "--json"])
    assert done.exit_code == 0, done.output
    trial = json.loads(done.stdout)["trial"]
    assert len(trial["outcomes"]) == 3 and trial["precision"] == "fp32"
    done = CliRunner().invoke(main, ["verify", str(bundle.folder), "--device", "cuda", "--trial"])
    assert "EXHAUSTIVE search, 1 window per run: " in done.stdout and "stored for this machine" in done.stdout
    done = CliRunner().invoke(main, ["verify", str(bundle.folder), "--device", "cuda", "--json"])
    assert json.loads(done.stdout)["trial"] is None
    assert CliRunner().invoke(main, ["verify", str(bundle.folder), "--trial"]).exit_code == 2
