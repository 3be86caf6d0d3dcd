"""Test the precision of the demo bundle: fp16 on CUDA where it passed, never on the CPU."""

from __future__ import annotations

import dataclasses

import msgspec
import onnx
import pytest

from gcis_runtime import Segmenter
from gcis_runtime.bundles.bundle import Bundle, open_bundle
from gcis_runtime.bundles.manifest import Engine
from gcis_runtime.bundles.store import DEMO_FOLDER
from gcis_runtime.engines.factory import open_session
from gcis_runtime.engines.options import EngineOptions
from gcis_runtime.pipeline import loaded_engine, precision_check
from tests.support.fake_session import ThresholdSession

FILE = "model.fp16.onnx"


@pytest.fixture
def demo(driver, monkeypatch):
    """Return the demo bundle on a simulated GPU, which checks two windows; its network runs on the CPU."""
    monkeypatch.setattr(precision_check, "_WINDOWS", 1)
    monkeypatch.setattr(
        loaded_engine.LoadedEngine, "_make_labeller", lambda _engine, _session: ThresholdSession()
    )
    return open_bundle(DEMO_FOLDER)


@pytest.mark.slow
def test_the_first_run_proves_fp16_and_selects_it(demo, cuda_ort, monkeypatch):
    read: list[str] = []
    original = Bundle.read

    def noted(bundle, path):
        read.append(path)
        return original(bundle, path)

    monkeypatch.setattr(Bundle, "read", noted)
    for sessions in (3, 4):  # the second run finds the row
        with Segmenter.open(demo, device="cuda") as segmenter:
            assert segmenter.engine.precision == "fp16" and segmenter.notes == ()
            assert segmenter.engine.reason.startswith("fp16: it passed the parity gate on this machine")
        assert len(cuda_ort) == sessions
    assert read == [FILE, "model.onnx"] * 3, "verified bytes, not the file"
    assert [p.name for p in sorted(demo.folder.iterdir())] == ["manifest.json", FILE, "model.onnx"]


def test_a_row_of_the_bundle_needs_no_check(demo, cuda_ort):
    (row,) = [row for row in demo.manifest.parity if row.graph == FILE]
    engine = Engine(
        backend="onnx", precision="fp16", file=FILE, graph=FILE, backend_version="1.31.1", device="cuda"
    )
    manifest = msgspec.structs.replace(
        demo.manifest,
        engines=(*demo.manifest.engines, engine),
        parity=(*demo.manifest.parity, msgspec.structs.replace(row, stage="ONNX Runtime 1.31.1 on CUDA")),
    )
    session = open_session(dataclasses.replace(demo, manifest=manifest), EngineOptions(device="cuda"))
    assert (session.precision, session.reason) == ("fp16", "fp16: it passed the parity gate of the export")
    assert len(cuda_ort) == 1
    session.close()


def test_the_emulation_alone_does_not_select_fp16(demo, cuda_ort):
    session = open_session(demo, EngineOptions(device="cuda"))
    assert (session.precision, session.reason) == ("fp32", "fp32: fp16 was not checked on this machine")
    session.close()


@pytest.mark.parametrize("engine", ["onnx", "openvino"])
def test_the_cpu_never_takes_fp16(engine):
    bundle = open_bundle(DEMO_FOLDER)
    session = open_session(bundle, EngineOptions(engine=engine))
    assert session.precision in ("fp32", "bf16") if engine == "openvino" else session.precision == "fp32"
    session.close()


def test_the_graph_of_the_cpu_is_one_file():
    """Its weights are inside, so that it is loaded from the sealed copy and takes no more memory."""
    bundle = open_bundle(DEMO_FOLDER)
    assert "model.onnx" not in bundle.external and FILE in bundle.external
    with bundle.graph_source("model.onnx") as source:
        model = onnx.load(source) if isinstance(source, str) else onnx.load_from_string(source)
    assert not any(tensor.external_data for tensor in model.graph.initializer)
