"""Test the layer over the CUDA driver: calls match cuda-python, and failures raise errors of gCIS."""

from __future__ import annotations

import numpy as np
import pytest

from gcis_runtime.engines.gpu import device as device_module
from gcis_runtime.engines.gpu.device import Device
from gcis_runtime.errors import DeviceMemoryError, EngineError
from tests.support import fake_cuda


@pytest.fixture
def driver():
    return fake_cuda.FakeDriver()


@pytest.fixture
def device(driver):
    return Device(fake_cuda.gpu(), driver)


def test_copies_arrive_in_order(device):
    stream = device.stream()
    there, back = device.pinned(40), device.pinned(40)
    a, b = device.allocate(40), device.allocate(40)
    there.view((10,), np.float32)[...] = np.arange(10)
    device.upload(a, there.address, 40, stream)
    device.copy(b, a, 40, stream)
    device.zero(a, stream)
    device.download(back.address, b, 40, stream)
    device.finish(stream)
    np.testing.assert_array_equal(back.view((2, 5), np.float32), np.arange(10).reshape(2, 5))


def test_close_frees_everything_newest_first(device, driver):
    stream, event = device.stream(), device.event()
    memory, pinned = device.allocate(8), device.pinned(8)
    device.load(b"")
    device.free(memory)
    device.close()
    device.close()
    assert driver.alive == {}
    freed = [(n, a[0]) for n, a in driver.calls if "Free" in n or "Destroy" in n or "Unload" in n]
    assert [n for n, _ in freed] == [
        "cuMemFree",
        "cuModuleUnload",
        "cuMemFreeHost",
        "cuEventDestroy",
        "cuStreamDestroy",
    ]
    assert freed[1:][1][1] == pinned.address and freed[-1][1] == stream and freed[-2][1] == event
    assert driver.names().count("cuDevicePrimaryCtxRelease") == 1
    with pytest.raises(EngineError, match="closed"):
        device.activate()


def test_a_graph_replays_what_was_recorded(device, driver):
    stream, buffer, back = device.stream(), device.allocate(4), device.pinned(4)
    counter = []
    replay = device.capture(stream, lambda: driver.queue(stream, lambda: counter.append(1)))
    device.finish(stream)
    assert counter == [], "recording runs nothing"
    for _ in range(3):
        replay()
    device.zero(buffer, stream)
    device.download(back.address, buffer, 4, stream)
    device.finish(stream)
    assert counter == [1, 1, 1]


def test_a_failed_recording_ends(device, driver):
    def fail():
        raise EngineError("no")

    with pytest.raises(EngineError, match="no"):
        device.capture(device.stream(), fail)
    assert driver.names()[-2:] == ["cuStreamBeginCapture", "cuStreamEndCapture"]


@pytest.mark.parametrize(
    ("call", "code", "kind"),
    [
        ("cuMemAlloc", "CUDA_ERROR_OUT_OF_MEMORY", DeviceMemoryError),
        ("cuMemAlloc", "CUDA_ERROR_LAUNCH_FAILED", EngineError),
    ],
)
def test_failures_are_named(device, driver, call, code, kind):
    driver.fail[call] = code
    with pytest.raises(kind, match=f"{code} from {call}") as caught:
        device.allocate(1 << 40)
    assert type(caught.value) is kind


def test_without_cuda_python_the_error_says_what_to_install(monkeypatch):
    def missing(name):
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(device_module.importlib, "import_module", missing)
    with pytest.raises(EngineError, match=r"cuda-python.*gcis\[cuda\]"):
        Device(fake_cuda.gpu())


def test_the_real_bindings_have_every_call():
    driver = pytest.importorskip("cuda.bindings.driver")
    names = [n for n in vars(fake_cuda.FakeDriver) if n.startswith("cu")]
    assert len(names) > 25
    assert [n for n in names if not callable(getattr(driver, n))] == []
    assert driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL == 1
    assert driver.CUstream_flags.CU_STREAM_NON_BLOCKING == 1
    assert driver.CUevent_flags.CU_EVENT_DISABLE_TIMING == 2
    attributes = driver.CUdevice_attribute
    assert attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR == 75
    assert attributes.CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR == 76
