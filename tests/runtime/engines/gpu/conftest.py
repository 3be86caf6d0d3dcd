"""Share the simulated GPU, with and without ONNX Runtime's CUDA provider."""

from __future__ import annotations

import onnxruntime as ort
import pytest

from gcis_runtime.engines import machine_rows
from gcis_runtime.engines.gpu import device as device_module
from gcis_runtime.engines.gpu import probe
from tests.support import fake_cuda
from tests.support.fake_ort_cuda import install


@pytest.fixture
def driver(monkeypatch, tmp_path):
    """Return a fake driver with one GPU of compute capability 8.9."""
    found = fake_cuda.FakeDriver()
    monkeypatch.setattr(probe, "probe_driver", fake_cuda.driver_with(fake_cuda.gpu()))
    monkeypatch.setattr(machine_rows, "probe_driver", fake_cuda.driver_with(fake_cuda.gpu()))
    monkeypatch.setattr(device_module, "import_bindings", lambda name: found)
    monkeypatch.setenv("GCIS_HOME", str(tmp_path / "home"))
    return found


@pytest.fixture
def cuda_ort(driver, monkeypatch):
    """Return the sessions of the simulated CUDA provider, a list that grows."""
    return install(ort, driver, lambda *change: monkeypatch.setattr(*change, raising=False))
