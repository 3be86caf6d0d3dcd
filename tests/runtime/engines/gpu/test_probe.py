"""Test that the driver is queried first, and that every result code gives a one-line message."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from gcis_runtime.engines.gpu import probe
from gcis_runtime.engines.gpu.probe import Driver, probe_driver, require_gpu
from gcis_runtime.errors import EngineError
from tests.support import fake_cuda


class Library:
    """Stub of libcuda with some GPUs."""

    def __init__(self, *gpus, init=0):
        self._gpus, self._init = gpus, init

    def cuInit(self, flags):  # noqa: N802
        return self._init

    def cuDriverGetVersion(self, out):  # noqa: N802
        out._obj.value = 13020
        return 0

    def cuDeviceGetCount(self, out):  # noqa: N802
        out._obj.value = len(self._gpus)
        return 0

    def cuDeviceGet(self, out, index):  # noqa: N802
        out._obj.value = index
        return 0

    def cuDeviceGetName(self, text, size, handle):  # noqa: N802
        text.value = self._gpus[handle.value].name.encode()
        return 0

    def cuDeviceTotalMem_v2(self, out, handle):  # noqa: N802
        out._obj.value = self._gpus[handle.value].memory
        return 0

    def cuDeviceGetAttribute(self, out, attribute, handle):  # noqa: N802
        out._obj.value = self._gpus[handle.value].capability[{75: 0, 76: 1}[attribute]]
        return 0


def test_what_the_driver_says():
    gpu = fake_cuda.gpu((12, 0), name="RTX")
    found = probe_driver(lambda _: Library(gpu))
    assert found == Driver(version="13.2", gpus=(gpu,))
    assert found.gpus[0].sm == "sm_120"


@pytest.mark.parametrize(
    ("load", "problem"),
    [
        (lambda name: ctypes.CDLL("libdoesnotexist.so.1"), "no CUDA driver was found"),
        (lambda name: Library(init=100), "found no GPU"),
        (lambda name: Library(init=803), "different versions"),
        (lambda name: Library(init=999), "error 999"),
        (lambda name: Library(), "found no GPU"),
    ],
)
def test_why_no_gpu_can_be_used(monkeypatch, load, problem):
    found = probe_driver(load)
    assert problem in found.problem
    monkeypatch.setattr(probe, "probe_driver", lambda: found)
    with pytest.raises(EngineError, match=f"no NVIDIA GPU can be used; received .*{problem}"):
        require_gpu("cuda")


def test_which_gpu_is_meant(monkeypatch):
    two = fake_cuda.driver_with(fake_cuda.gpu(), fake_cuda.gpu((9, 0), index=1))
    monkeypatch.setattr(probe, "probe_driver", two)
    assert require_gpu("cuda").capability == (8, 9)
    assert require_gpu("cuda:1").capability == (9, 0)
    for wrong in ("cuda:2", "cuda:-1", "gpu"):
        with pytest.raises(EngineError, match=r"no such GPU.*cuda:0 \(Test GPU\), cuda:1"):
            require_gpu(wrong)


@pytest.mark.parametrize("engine", ["onnx", "trt", "trt-rtx"])
def test_no_driver_is_an_error_and_no_crash(make_bundle, engine):
    """Run in a separate process, which a TensorRT runtime without a driver would crash."""
    if probe_driver().problem is None:
        pytest.skip("this machine has a GPU")
    code = (
        "import sys\n"
        "from gcis_runtime.bundles.bundle import open_bundle\n"
        "from gcis_runtime.engines.factory import open_session\n"
        "from gcis_runtime.engines.options import EngineOptions\n"
        "from gcis_runtime.errors import EngineError\n"
        f"try: open_session(open_bundle(sys.argv[1]), EngineOptions(engine={engine!r}, device='cuda'))\n"
        "except EngineError as error: print(error.message)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(make_bundle())], capture_output=True, text=True, check=False
    )
    assert (run.returncode, run.stdout.strip()) == (0, "no NVIDIA GPU can be used"), run.stderr
