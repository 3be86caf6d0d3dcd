"""Test that an export on a machine with a GPU runs every graph there and records the rows."""

from __future__ import annotations

import msgspec
import numpy as np
import onnxruntime as ort
import pytest

from gcis_export.engines import on_gpu
from gcis_export.engines.on_gpu import compare_on_gpu
from gcis_export.gate.parity import Gate, Reference, References
from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.bundles.manifest import MANIFEST_FILE, MODEL_FILE, decode, encode
from gcis_runtime.engines.gpu import device, probe
from gcis_runtime.engines.gpu.probe import Driver
from gcis_runtime.engines.onnx.cuda_precision import automatic_precision
from tests.support import fake_cuda, fake_ort_cuda
from tests.support.bundles_and_images import ROI, write_bundle
from tests.support.half_bundle import FILE, add_half

WINDOW = np.random.default_rng(0).random((1, 1, *ROI), dtype=np.float32)


@pytest.fixture
def gpu(monkeypatch):
    """Simulate a GPU and ONNX Runtime's CUDA provider."""
    driver = fake_cuda.FakeDriver()
    for module in (probe, on_gpu):
        monkeypatch.setattr(module, "probe_driver", fake_cuda.driver_with(fake_cuda.gpu()))
    monkeypatch.setattr(device, "import_bindings", lambda name: driver)
    fake_ort_cuda.install(ort, driver, lambda *change: monkeypatch.setattr(*change, raising=False))
    return driver


def compared(folder):
    """Compare a bundle on the GPU with its float32 graph on the CPU."""
    session = ort.InferenceSession(str(folder / MODEL_FILE), providers=["CPUExecutionProvider"])
    reference = Reference(name="PyTorch static", answers=[session.run(None, {"image": WINDOW})[0]])
    gate = Gate([WINDOW])
    engines, notes = compare_on_gpu(folder, gate, References(network=reference, exact=reference))
    return gate.rows, engines, notes


def test_every_graph_runs_on_the_gpu_and_auto_takes_what_passed(gpu, tmp_path):
    folder = add_half(write_bundle(tmp_path / "b.gcis"))
    rows, engines, notes = compared(folder)
    assert [(row.stage, row.graph, row.passed) for row in rows] == [
        (f"ONNX Runtime {ort.__version__} on CUDA", MODEL_FILE, True),
        (f"ONNX Runtime {ort.__version__} on CUDA", FILE, True),
    ]
    assert [(e.precision, e.device, e.file) for e in engines] == [
        ("fp32", "cuda", MODEL_FILE),
        ("fp16", "cuda", FILE),
    ]
    assert notes == () and gpu.alive == {} and gpu.aborts == []
    manifest = decode((folder / MANIFEST_FILE).read_bytes(), source="test")
    manifest = msgspec.structs.replace(manifest, parity=tuple(rows), engines=engines)
    (folder / MANIFEST_FILE).write_bytes(encode(manifest))
    assert automatic_precision(open_bundle(folder), "cuda").precision == "fp16"


def test_a_graph_that_fails_is_recorded_and_not_offered(gpu, tmp_path):
    rows, engines, notes = compared(add_half(write_bundle(tmp_path / "b.gcis"), factor=1.5))
    assert [row.passed for row in rows] == [True, False]
    assert [e.precision for e in engines] == ["fp32"]
    assert "model.fp16.onnx on CUDA exceeds its limits" in notes[0]


def test_nothing_runs_without_a_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr(on_gpu, "probe_driver", lambda: Driver(problem="no CUDA driver was found"))
    assert compared(add_half(write_bundle(tmp_path / "b.gcis"))) == ([], (), ())
