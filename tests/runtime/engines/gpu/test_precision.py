"""Test that `auto` on CUDA takes fp16 where it is proven, and proves it at the first run."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from gcis_runtime import Segmenter
from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.bundles.manifest import MANIFEST_FILE, Engine, ParityRow
from gcis_runtime.cli.bundle import main
from gcis_runtime.engines import machine_rows
from gcis_runtime.engines.factory import open_session
from gcis_runtime.engines.gpu import probe
from gcis_runtime.engines.options import EngineOptions
from gcis_runtime.errors import EngineError
from gcis_runtime.pipeline import loaded_engine
from tests.support import fake_cuda
from tests.support.fake_session import ThresholdSession
from tests.support.half_bundle import FILE, add_half

PASSED = ParityRow(
    stage="ONNX Runtime 1.31.1 on cuda:0", reference="PyTorch static", precision="fp16", graph=FILE,
    windows=1, max_abs=0.1, max_rel=0.01, scale=10.0, labels_changed=0.0, tolerance_abs=1.0,
    tolerance_rel=0.1, tolerance_labels=0.0,
)  # fmt: skip
ENGINE = Engine(
    backend="onnx", precision="fp16", file=FILE, graph=FILE, backend_version="1.31.1", device="cuda"
)


@pytest.fixture
def make_half(make_bundle):
    """Return a function that writes a bundle with an fp16 graph."""

    def make(name="half.gcis", *, factor=1.0, **fields):
        return open_bundle(add_half(make_bundle(name), factor=factor, **fields))

    return make


@pytest.fixture
def opened(driver, cuda_ort, monkeypatch):
    """Return the precisions of the sessions on the GPU, in order; blending on the GPU is not needed here."""
    found = []

    def labeller(_engine, session):
        found.append(session.precision)
        return ThresholdSession()

    monkeypatch.setattr(loaded_engine.LoadedEngine, "_make_labeller", labeller)
    return found


def test_a_row_of_the_bundle_selects_fp16_without_a_check(make_half, cuda_ort, opened):
    bundle = make_half(engines=(ENGINE,), parity=(PASSED,))
    with Segmenter.open(bundle, device="cuda") as segmenter:
        assert segmenter.engine.precision == "fp16"
        assert segmenter.engine.reason == "fp16: it passed the parity gate of the export"
    assert len(cuda_ort) == 1


def test_the_first_run_checks_fp16_and_later_runs_know(make_half, cuda_ort, opened, driver):
    bundle = make_half()
    before = sorted(p.name for p in bundle.folder.rglob("*"))
    with Segmenter.open(bundle, device="cuda") as segmenter:
        assert segmenter.engine.precision == "fp16" and segmenter.notes == ()
        assert "passed the parity gate on this machine" in segmenter.engine.reason
    assert len(cuda_ort) == 3, "float32, fp16, and the session of the run"
    with Segmenter.open(bundle, device="cuda") as segmenter:
        assert segmenter.engine.precision == "fp16"
    assert len(cuda_ort) == 4, "no second check"
    assert sorted(p.name for p in bundle.folder.rglob("*")) == before
    assert (driver.aborts, driver.alive) == ([], {})


def test_a_precision_that_fails_is_not_selected_and_the_reason_is_shown(make_half, cuda_ort, opened):
    bundle = make_half(factor=1.5)
    for _ in range(2):
        with Segmenter.open(bundle, device="cuda") as segmenter:
            assert segmenter.engine.precision == "fp32"
            (note,) = segmenter.notes
            assert "fp32: fp16 exceeds its limits on this machine (relative difference" in note
            assert segmenter.engine.reason == note
    assert len(cuda_ort) == 4, "the failure is stored as well"


@pytest.mark.parametrize("change", ["gpu", "graph", "row"])
def test_rows_hold_only_where_they_were_measured(make_half, cuda_ort, opened, monkeypatch, change):
    bundle = make_half()
    Segmenter.open(bundle, device="cuda").close()
    if change == "gpu":
        other = fake_cuda.driver_with(fake_cuda.gpu((9, 0), name="H100"))
        monkeypatch.setattr(probe, "probe_driver", other)
        monkeypatch.setattr(machine_rows, "probe_driver", other)
    elif change == "graph":
        bundle = make_half("other.gcis", factor=1.0001)
    else:
        for file in bundle.folder.parent.rglob("parity-*.bin"):
            file.write_bytes(b"{}")
    session = open_session(bundle, EngineOptions(device="cuda"))
    assert (session.precision, session.reason) == ("fp32", "fp32: fp16 was not checked on this machine")
    assert session.reason in session.notes


def test_a_precision_that_the_user_selects_is_not_checked(make_half, cuda_ort, opened):
    bundle = make_half()
    for precision in ("fp16", "fp32"):
        with Segmenter.open(bundle, device="cuda", precision=precision) as segmenter:
            assert (segmenter.engine.precision, segmenter.engine.reason) == (precision, "")
    assert len(cuda_ort) == 2


def test_a_check_that_fails_to_run_does_not_stop_the_run(make_half, cuda_ort, opened, monkeypatch):
    bundle = make_half()

    def opener(bundle, options):
        if options.precision == "fp16":
            raise EngineError("cannot load", received="x", expected="y", fix="z")
        return open_session(bundle, options)

    engine = loaded_engine.LoadedEngine.open(bundle, EngineOptions(device="cuda"), opener=opener)
    assert engine.info.precision == "fp32"
    engine.close()


def test_verify_says_if_rows_cannot_be_stored(make_half, cuda_ort, opened, monkeypatch):
    bundle = make_half()
    arguments = ["verify", str(bundle.folder), "--device", "cuda"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0 and done.stdout.count("; stored for this machine") == 2
    monkeypatch.setattr(machine_rows, "open_cache_beside", lambda _: None)
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0 and done.stdout.count("; not stored: set GCIS_HOME to a folder") == 2
    assert "stored for this machine" not in done.stdout
    assert json.loads(CliRunner().invoke(main, [*arguments, "--json"]).stdout)["stored"] is False


def test_verify_adds_rows_for_this_machine(make_half, cuda_ort, opened):
    bundle = make_half()
    before = (bundle.folder / MANIFEST_FILE).read_bytes()
    done = CliRunner().invoke(main, ["verify", str(bundle.folder), "--device", "cuda", "--json"])
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["rows"]
    assert [(r["precision"], r["reference"]) for r in rows] == [
        ("fp32", "ONNX Runtime fp32 on the CPU"),
        ("fp16", "ONNX Runtime fp32 on the CPU"),
    ]
    assert (bundle.folder / MANIFEST_FILE).read_bytes() == before
    assert open_session(bundle, EngineOptions(device="cuda")).precision == "fp16"
    wrong = make_half("wrong.gcis", factor=1.5)
    done = CliRunner().invoke(main, ["verify", str(wrong.folder), "--device", "cuda"])
    assert done.exit_code == 2 and "fp16: relative difference" in done.stderr
    assert open_session(wrong, EngineOptions(device="cuda")).precision == "fp32"
    for arguments in (["--device", "cpu"], ["--device", "cuda", "--no-run"]):
        assert CliRunner().invoke(main, ["verify", str(bundle.folder), *arguments]).exit_code == 2
