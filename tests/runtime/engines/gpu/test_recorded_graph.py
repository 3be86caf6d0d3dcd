"""Test sessions that record a CUDA graph: inputs of replays, threads, failures, and the order of freeing."""

from __future__ import annotations

import gc
import threading

import numpy as np
import pytest

from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.engines.onnx.cuda import OnnxCudaSession
from gcis_runtime.engines.onnx.cuda_settings import CudaSettings
from gcis_runtime.errors import DeviceMemoryError, EngineError
from tests.support.bundles_and_images import ROI
from tests.support.fake_ort_cuda import Bound

WINDOWS = np.random.default_rng(0).random((3, 1, 1, *ROI), dtype=np.float32)
RECORDED = CudaSettings(search="EXHAUSTIVE", graph=True)


@pytest.fixture
def session(make_bundle, cuda_ort):
    return OnnxCudaSession(open_bundle(make_bundle()), device="cuda", settings=RECORDED)


def expected(made, window):
    return made.real.run(["margins"], {"image": window})[0]


def test_the_settings_reach_onnx_runtime(session, cuda_ort):
    assert cuda_ort[0].options == {
        "device_id": "0",
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "enable_cuda_graph": "1",
        "use_tf32": "0",
        "user_compute_stream": str(session.stream),
    }
    session.close()


def test_replays_read_the_input_that_is_there(session, driver, cuda_ort):
    for window in (*WINDOWS, *WINDOWS):
        np.testing.assert_array_equal(session.run(window), expected(cuda_ort[0], window))
    assert (cuda_ort[0].replays, len(cuda_ort[0].graphs)) == (5, 1)
    session.close()
    session.close()
    assert (driver.aborts, driver.alive, cuda_ort[0].destroyed) == ([], {}, True)


def test_the_replay_ends_before_the_run_returns(session, driver, cuda_ort):
    session.run(WINDOWS[0])
    session.enqueue()
    assert driver.names()[-1] == "cuStreamSynchronize"
    assert not driver.alive[int(session.stream)].queue
    session.close()


def test_other_threads_run_without_the_recording(session, driver, cuda_ort):
    session.run(WINDOWS[0])
    answers = []

    def work():
        session.gpu.activate()
        answers.append(np.array(session.run(WINDOWS[1])))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    np.testing.assert_array_equal(answers[0], expected(cuda_ort[0], WINDOWS[1]))
    assert (cuda_ort[0].replays, list(cuda_ort[0].graphs)) == (0, [threading.main_thread()])
    session.run(WINDOWS[2])
    assert cuda_ort[0].replays == 1
    session.close()
    assert (driver.aborts, driver.alive) == ([], {})


def test_a_recording_that_fails_leaves_the_stream_usable(session, driver, cuda_ort):
    """Otherwise nothing in this process could wait for the stream or free memory."""
    cuda_ort[0].fails_while_recording = True
    with pytest.raises(EngineError, match="operation not permitted when stream is capturing"):
        session.run(WINDOWS[0])
    assert driver.alive[int(session.stream)].capture is None
    np.testing.assert_array_equal(session.run(WINDOWS[1]), expected(cuda_ort[0], WINDOWS[1]))
    assert cuda_ort[0].graphs == {}, "after a failure nothing is recorded"
    session.close()
    gc.collect()
    assert (driver.aborts, driver.alive, cuda_ort[0].destroyed) == ([], {}, True)


def test_a_session_that_fails_again_at_the_end_is_kept(session, driver, cuda_ort):
    session.run(WINDOWS[0])
    cuda_ort[0].fail = RuntimeError("Failed to allocate memory for requested buffer")
    with pytest.raises(DeviceMemoryError):
        session.run(WINDOWS[0])
    session.close()
    gc.collect()
    assert (driver.aborts, driver.alive, cuda_ort[0].destroyed) == ([], {}, False)


def test_operators_on_the_cpu_prevent_a_recording(make_bundle, driver, cuda_ort, monkeypatch):
    monkeypatch.setattr(Bound, "on_cpu", {"Cast"})
    with pytest.raises(EngineError, match="cannot use the graph capture feature"):
        OnnxCudaSession(open_bundle(make_bundle()), device="cuda", settings=RECORDED)
    assert (driver.aborts, driver.alive) == ([], {})
