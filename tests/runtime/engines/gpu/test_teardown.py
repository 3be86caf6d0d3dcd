"""Test that device and page-locked memory is freed where CUDA permits it, however a session ends."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading

import numpy as np
import pytest

from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.engines.factory import open_session
from gcis_runtime.engines.gpu import probe
from gcis_runtime.engines.options import EngineOptions
from gcis_runtime.errors import DeviceMemoryError, EngineError
from tests.support import fake_cuda
from tests.support.bundles_and_images import ROI

WINDOW = np.random.default_rng(0).random((1, 1, *ROI), dtype=np.float32)
OUT_OF_MEMORY = "BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer"


@pytest.fixture
def session(make_bundle, cuda_ort):
    return open_session(open_bundle(make_bundle()), EngineOptions(device="cuda"))


def test_close_ends_host_functions_before_stream_and_context(session, driver, cuda_ort):
    for _ in range(3):
        session.run(WINDOW)
    session.close()
    session.close()
    assert (driver.aborts, driver.alive, cuda_ort[0].destroyed) == ([], {}, True)
    assert driver.names()[-1] == "cuDevicePrimaryCtxRelease"


def test_the_simulation_shows_why_runs_are_synchronous(session, driver):
    """Without this, the other tests of this file would pass for any order."""
    session._bound.options.add_run_config_entry("disable_synchronize_execution_providers", "1")
    session.run(WINDOW)
    session.close()
    assert driver.aborts == ["CUDA failure 800: operation not permitted; expr=cudaFreeHost(p)"]


def test_work_that_is_queued_ends_before_the_session(session, driver):
    """As after Ctrl-C between a run and the download of its output."""
    session.enqueue()
    session.gpu.zero(session.output, session.stream)
    session.close()
    assert (driver.aborts, driver.alive) == ([], {})


def test_a_session_whose_run_failed_is_not_destroyed_unless_a_later_run_succeeds(
    make_bundle, driver, cuda_ort
):
    for recovers in (False, True):
        session = open_session(open_bundle(make_bundle(f"{recovers}.gcis")), EngineOptions(device="cuda"))
        cuda_ort[-1].fail = RuntimeError(OUT_OF_MEMORY)
        with pytest.raises(DeviceMemoryError) as error:
            session.run(WINDOW)
        assert error.value.__cause__ is cuda_ort[-1].fail
        if recovers:
            cuda_ort[-1].fail = None
        session.close()
        gc.collect()
        assert cuda_ort[-1].destroyed == recovers
        assert (driver.aborts, driver.alive) == ([], {})


def test_a_gpu_that_failed_is_reported_once_and_everything_else_is_freed(session, driver):
    session.run(WINDOW)
    driver.fail["cuStreamSynchronize"] = "CUDA_ERROR_ILLEGAL_ADDRESS"
    with pytest.raises(EngineError, match="ILLEGAL_ADDRESS"):
        session.close()
    assert (driver.aborts, driver.alive) == ([], {})
    session.close()


def test_another_thread_may_close(session, driver):
    session.run(WINDOW)
    errors = []

    def close():
        try:
            session.close()
        except EngineError as error:
            errors.append(error)

    thread = threading.Thread(target=close)
    thread.start()
    thread.join()
    assert (errors, driver.aborts, driver.alive) == ([], [], {})


def test_an_abandoned_session_is_freed_and_the_threads_context_stays(
    make_bundle, driver, cuda_ort, monkeypatch
):
    """The garbage collector may run while the thread uses another GPU."""
    two = fake_cuda.driver_with(fake_cuda.gpu(), fake_cuda.gpu((9, 0), index=1))
    monkeypatch.setattr(probe, "probe_driver", two)
    first = open_session(open_bundle(make_bundle("a.gcis")), EngineOptions(device="cuda:0"))
    second = open_session(open_bundle(make_bundle("b.gcis")), EngineOptions(device="cuda:1"))
    first.run(WINDOW)
    second.run(WINDOW)
    before = list(driver.contexts)
    del first
    gc.collect()
    assert (cuda_ort[0].destroyed, cuda_ort[1].destroyed) == (True, False)
    assert driver.contexts == before == ["context 1"]
    assert second.run(WINDOW).shape == (1, 2, *ROI)
    second.close()
    assert (driver.aborts, driver.alive) == ([], {})


SCRIPT = """
import sys
from pathlib import Path
import numpy as np, onnxruntime as ort
from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.engines.factory import open_session
from gcis_runtime.engines.gpu import device, probe
from gcis_runtime.engines.options import EngineOptions
from tests.support import fake_cuda
from tests.support.fake_ort_cuda import install
driver = fake_cuda.FakeDriver()
probe.probe_driver = fake_cuda.driver_with(fake_cuda.gpu())
device.import_bindings = lambda name: driver
made = install(ort, driver, setattr)
import atexit
atexit.register(lambda: print(driver.aborts, driver.alive, made[0].destroyed))
session = open_session(open_bundle(Path(sys.argv[1])), EngineOptions(device="cuda"))
session.run(np.zeros(session._buffers.input_shape, np.float32))
if len(sys.argv) > 2:
    raise KeyboardInterrupt
"""


@pytest.mark.parametrize("interrupt", [[], ["interrupt"]])
def test_a_process_that_ends_without_close_frees_everything(make_bundle, interrupt):
    command = [sys.executable, "-c", SCRIPT, str(make_bundle()), *interrupt]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.stdout.strip() == "[] {} True", done.stderr
