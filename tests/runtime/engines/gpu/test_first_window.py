"""Test GPU engines that fail on their first window: `auto` takes the next engine and says why."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from gcis_runtime import Segmenter, Volume
from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.engines import memory_fallback
from gcis_runtime.engines.tensorrt import session as tensorrt_session
from gcis_runtime.errors import EngineError, UnusableEngineError
from gcis_runtime.sliding.cuda import labeller as gpu_labeller
from tests.support.bundles_and_images import smooth_ct
from tests.support.fake_ort_cuda import Bound
from tests.support.fake_tensorrt import FakeTensorrt

ILLEGAL = "CUDA failure 700: an illegal memory access was encountered"
NO_MEMORY = "BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer"
VOLUME = Volume(array=smooth_ct((70, 66, 90)), affine=np.diag([-2.0, -2.0, 2.0, 1.0]))


@pytest.fixture
def bundle(make_bundle, driver, monkeypatch):
    monkeypatch.setattr(gpu_labeller, "cached_kernels", lambda *_: b"")
    return open_bundle(make_bundle())


@pytest.fixture
def failing(cuda_ort, monkeypatch):
    """Return a function after which the window with a number fails."""

    def arm(number, message=ILLEGAL, also=lambda: None):
        compute, windows = Bound.compute, []

        def fail(self, options):
            windows.append(0)
            if len(windows) == number:
                also()
                self.fail = RuntimeError(message)
            compute(self, options)

        monkeypatch.setattr(Bound, "compute", fail)
        return windows

    return arm


def expected_labels(bundle):
    with Segmenter.open(bundle, engine="onnx") as ours:
        return ours.segment(VOLUME).labels


@pytest.mark.parametrize(
    ("message", "step"),
    [(ILLEGAL, "onnx does not work here: CUDA failure 700"), (NO_MEMORY, "out of memory with onnx on cuda")],
)
def test_auto_continues_with_the_next_engine(bundle, failing, message, step):
    failing(1, message)
    with Segmenter.open(bundle, device="cuda") as ours:
        found = ours.segment(VOLUME)
        assert found.engine.device == "cpu" and found.windows > 1
        assert len(found.steps) == 1 and found.steps[0].startswith(step)
        assert any(step in note for note in ours.notes)
    np.testing.assert_array_equal(found.labels, expected_labels(bundle))


def test_logits_that_are_not_finite_are_no_result(bundle, cuda_ort):
    with Segmenter.open(bundle, device="cuda") as ours:
        window = cuda_ort[-1].real
        cuda_ort[-1].real = type(
            "Real", (), {"run": lambda _self, *a: [np.full_like(window.run(*a)[0], np.nan)]}
        )()
        found = ours.segment(VOLUME)
    assert found.engine.device == "cpu"
    assert found.steps[0] == "onnx does not work here: logits that are not finite, fp32 on cuda:0"
    np.testing.assert_array_equal(found.labels, expected_labels(bundle))


def test_a_gpu_that_cannot_be_freed_afterwards_is_left(bundle, driver, failing):
    def lose():
        for name in ("cuStreamSynchronize", "cuCtxSynchronize", "cuMemFree", "cuMemAlloc"):
            driver.fail[name] = "CUDA_ERROR_ILLEGAL_ADDRESS"

    failing(1, also=lose)
    with Segmenter.open(bundle, device="cuda") as ours:
        assert ours.segment(VOLUME).engine.device == "cpu"
        assert ours.notes[0].startswith("onnx does not work here: CUDA failure 700")


def test_an_engine_that_was_named_keeps_its_error(bundle, failing):
    failing(1)
    with Segmenter.open(bundle, device="cuda", engine="onnx") as ours:
        with pytest.raises(UnusableEngineError, match="ONNX Runtime failed on a window; received CUDA fail"):
            ours.segment(VOLUME)
        assert ours.notes == ()


def test_an_engine_that_worked_is_not_replaced(bundle, failing):
    windows = failing(1000)
    with Segmenter.open(bundle, device="cuda") as ours:
        ours.segment(VOLUME)
        failing(1)
        with pytest.raises(EngineError, match="failed on a window") as error:
            ours.segment(VOLUME)
        assert not isinstance(error.value, UnusableEngineError)
        assert ours.notes == () and len(windows) > 1


@pytest.mark.parametrize("what", ["deserialise", "context", "execute"])
def test_a_tensorrt_that_fails_is_replaced_by_onnx_runtime(bundle, driver, cuda_ort, monkeypatch, what):
    """A TensorRT session runs a first window when it is opened."""
    from gcis_runtime.engines import factory

    module = FakeTensorrt(driver, name="tensorrt_rtx", version="1.7.1")
    names = {"cuda": ("trt-rtx", "onnx"), "cpu": ("onnx",)}
    for user in (factory, memory_fallback):
        monkeypatch.setattr(user, "automatic_engines", lambda _bundle, device: names[device])
    monkeypatch.setattr(tensorrt_session, "load_runner", lambda _family: module)
    found = SimpleNamespace(precision="fp32", batch=1, notes=(), plan=module.plan())
    monkeypatch.setattr(tensorrt_session, "find_engine", lambda *_a, **_k: found)
    module.fail, module.error = {what}, "Version tag does not match"
    with Segmenter.open(bundle, device="cuda") as ours:
        assert (ours.engine.name, ours.engine.device) == ("onnx", "cuda:0")
        assert ours.notes[0] == "trt-rtx does not work here: Version tag does not match"
