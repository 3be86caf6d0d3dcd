"""Test GPU sessions with a fake driver: bindings, order of operations, and errors."""

from __future__ import annotations

import gc
import hashlib
import shutil
import threading
from types import SimpleNamespace

import msgspec
import numpy as np
import onnxruntime as ort
import pytest

from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.bundles.manifest import MANIFEST_FILE, Engine, FileEntry, decode, encode
from gcis_runtime.engines.factory import open_session
from gcis_runtime.engines.gpu import probe
from gcis_runtime.engines.onnx import cuda as onnx_cuda
from gcis_runtime.engines.onnx.loading import load, operators_on_cpu
from gcis_runtime.engines.options import EngineOptions
from gcis_runtime.engines.session import DeviceSession
from gcis_runtime.engines.tensorrt import build as build_module
from gcis_runtime.engines.tensorrt import engines as engines_module
from gcis_runtime.engines.tensorrt import session as session_module
from gcis_runtime.errors import BundleError, DeviceMemoryError, EngineError
from tests.support import fake_cuda
from tests.support.bundles_and_images import ROI
from tests.support.fake_ort_cuda import Bound
from tests.support.fake_tensorrt import FakeTensorrt, network

WINDOW = np.random.default_rng(0).random((1, 1, *ROI), dtype=np.float32)


def test_onnx_is_bound_to_our_buffers_and_stream(make_bundle, driver, cuda_ort):
    bundle = open_bundle(make_bundle())
    session = open_session(bundle, EngineOptions(device="cuda"))
    assert isinstance(session, DeviceSession)
    assert (session.name, session.device, session.precision, session.threads) == ("onnx", "cuda:0", "fp32", 0)
    (made,) = cuda_ort
    assert made.options == {
        "device_id": "0",
        "cudnn_conv_algo_search": "HEURISTIC",
        "use_tf32": "0",
        "user_compute_stream": str(session.stream),
    }
    assert made.bound["image"] == ("cuda", 0, np.float32, (1, 1, *ROI), session.input.address)
    assert made.bound["margins"] == ("cuda", 0, np.float32, (1, 2, *ROI), session.output.address)
    (expected,) = made.real.run(["margins"], {"image": WINDOW})
    np.testing.assert_array_equal(session.run(WINDOW), expected)
    assert made.runs == [True], "synchronous: ONNX Runtime frees the page-locked buffers of the run"
    session.close()
    assert driver.alive == {}
    with pytest.raises(EngineError, match="closed"):
        session.run(WINDOW)


def test_tf32_is_on_only_when_asked(make_bundle, driver, cuda_ort):
    session = open_session(open_bundle(make_bundle()), EngineOptions(device="cuda:0", tf32=True))
    assert cuda_ort[0].options["use_tf32"] == "1" and "TF32" in session.notes[0]


def test_bf16_is_not_offered_and_the_reason_is_given(make_bundle, driver, cuda_ort):
    with pytest.raises(EngineError, match=r"--precision bf16; in bf16 graphs it would run instance norms"):
        open_session(open_bundle(make_bundle()), EngineOptions(device="cuda", precision="bf16"))


def test_cuda_is_active_or_an_error(make_bundle, driver, cuda_ort, monkeypatch):
    bundle = open_bundle(make_bundle())
    monkeypatch.setattr(Bound, "get_providers", lambda self: ["CPUExecutionProvider"])
    with pytest.raises(EngineError, match=r"could not start on CUDA.*gcis\[cuda\]"):
        open_session(bundle, EngineOptions(device="cuda"))
    assert driver.alive == {}, "nothing stays on the GPU"
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(EngineError, match="no CUDA provider"):
        open_session(bundle, EngineOptions(device="cuda"))


def test_products_on_the_cpu_are_an_error_and_others_a_note(make_bundle, driver, cuda_ort, monkeypatch):
    """The provider is active, but has no kernel for some operators."""
    monkeypatch.setattr(Bound, "on_cpu", {"Conv"})
    with pytest.raises(EngineError, match=r"assigns part of the graph to the CPU; received 1 Conv; expected"):
        open_session(open_bundle(make_bundle()), EngineOptions(device="cuda"))
    assert driver.alive == {}
    monkeypatch.setattr(onnx_cuda, "PRODUCTS", {"MatMul"})
    assert "1 Conv" in open_session(open_bundle(make_bundle("c.gcis")), EngineOptions(device="cuda")).notes[0]
    monkeypatch.setattr(Bound, "on_cpu", frozenset())
    assert open_session(open_bundle(make_bundle("d.gcis")), EngineOptions(device="cuda")).notes == ()


def test_where_onnx_runtime_does_not_say_what_runs_where(make_bundle):
    bundle = open_bundle(make_bundle())
    session = ort.InferenceSession(str(bundle.model_file), providers=["CPUExecutionProvider"])
    assert operators_on_cpu(SimpleNamespace()) is None
    recorded = load(
        bundle.graph("model.onnx"), bundle.manifest, ["CPUExecutionProvider"],
        threads=1, batch=1, record_placement=True,
    )  # fmt: skip
    if hasattr(session, "get_provider_graph_assignment_info"):
        assert operators_on_cpu(recorded) == {"Conv": 1}


def test_what_onnx_runtime_prints_is_told_in_the_error_and_not_printed(
    make_bundle, driver, cuda_ort, monkeypatch, capsys
):
    said = "Failed to load libcublas.so.13: cannot open shared object file"
    monkeypatch.setattr(ort, "preload_dlls", lambda: print(said + "\nPlease follow a link"))
    open_session(open_bundle(make_bundle()), EngineOptions(device="cuda"))
    monkeypatch.setattr(Bound, "get_providers", lambda self: ["CPUExecutionProvider"])
    with pytest.raises(EngineError, match=rf"could not start on CUDA; received CPUExecutionProvider, {said}"):
        open_session(open_bundle(make_bundle("c.gcis")), EngineOptions(device="cuda"))
    assert capsys.readouterr() == ("", ""), "standard output is for results"


def test_onnx_out_of_memory_is_told_apart(make_bundle, driver, cuda_ort, monkeypatch):
    def fail(*_):
        raise RuntimeError("BFCArena::AllocateRawInternal Failed to allocate memory for requested buffer")

    session = open_session(open_bundle(make_bundle()), EngineOptions(device="cuda"))
    monkeypatch.setattr(Bound, "compute", fail)
    with pytest.raises(DeviceMemoryError, match="out of memory"):
        session.run(WINDOW)


# TensorRT


@pytest.fixture
def use(driver, monkeypatch):
    def install(name="tensorrt_rtx", version="1.7.1", builder=True):
        module = FakeTensorrt(driver, name=name, version=version)
        monkeypatch.setattr(session_module, "load_runner", lambda family: module)

        def load_builder(family):
            if not builder:
                raise EngineError(f"{family.product} is not installed")
            return module

        for user in (engines_module, build_module):
            monkeypatch.setattr(user, "load_builder", load_builder)
        return module

    return install


def sha(data):
    return hashlib.sha256(data).hexdigest()


def with_engine(folder, data, **changes):
    """Add a compiled engine to a bundle."""
    fields = {
        "backend": "trt-rtx", "precision": "fp32", "graph": "model.onnx", "backend_version": "1.7.1",
        "device": "sm_80+", "file": "engines/e.engine",
    }  # fmt: skip
    engine = Engine(**{**fields, **changes})
    file = folder / engine.file
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(data)
    manifest = decode((folder / MANIFEST_FILE).read_bytes(), source="test")
    entries, graphs = [FileEntry(path=engine.file, sha256=sha(data), bytes=len(data))], []
    if engine.batch > 1:
        shutil.copy(folder / "model.onnx", folder / engine.graph)
        entries.append(msgspec.structs.replace(manifest.files[0], path=engine.graph))
        graphs.append(msgspec.structs.replace(manifest.graphs[0], file=engine.graph, batch=engine.batch))
    manifest = msgspec.structs.replace(
        manifest,
        engines=(*manifest.engines, engine),
        files=(*manifest.files, *entries),
        graphs=(*manifest.graphs, *graphs),
    )
    (folder / MANIFEST_FILE).write_bytes(encode(manifest))
    return open_bundle(folder)


def test_an_engine_of_the_bundle_runs(make_bundle, driver, use):
    module = use()
    session = open_session(
        with_engine(make_bundle(), module.plan()), EngineOptions(engine="trt-rtx", device="cuda")
    )
    assert isinstance(session, DeviceSession)
    assert (session.name, session.version, session.precision, session.notes) == (
        "trt-rtx", "tensorrt_rtx 1.7.1".removeprefix("tensorrt_rtx "), "fp32", (),
    )  # fmt: skip
    (context,) = module.contexts
    assert context.addresses == {"image": session.input.address, "margins": session.output.address}
    assert context.config.cuda_graph_strategy.name == "WHOLE_GRAPH_CAPTURE"
    assert "cuStreamBeginCapture" not in driver.names(), "TensorRT-RTX records by itself"
    np.testing.assert_array_equal(session.run(WINDOW), network(WINDOW))
    session.close()
    assert driver.alive == {}
    with pytest.raises(EngineError, match="closed"):
        session.enqueue()


@pytest.mark.parametrize("name", ["tensorrt", "tensorrt_lean"])
def test_trt_runs_once_then_replays_a_graph(make_bundle, driver, use, name):
    module = use(name, "10.9.0")
    settings = {"version_compatible": "yes"}
    bundle = with_engine(
        make_bundle(), module.plan(), backend="trt", backend_version="10.9.0", settings=settings
    )
    session = open_session(bundle, EngineOptions(engine="trt", device="cuda"))
    assert session.version.endswith("10.9.0") and ("lean" in session.version) == ("lean" in name)
    (context,) = module.contexts
    assert context.executed == 2, "once before recording, once recorded"
    calls = driver.names()
    assert calls.index("cuStreamSynchronize") < calls.index("cuStreamBeginCapture")
    for factor in (1, 2, 3):
        np.testing.assert_array_equal(session.run(WINDOW / factor), network(WINDOW / np.float32(factor)))
    assert context.executed == 2 and driver.names().count("cuGraphLaunch") == 3
    session.close()
    assert driver.alive == {}


def test_a_batch_runs_at_once(make_bundle, driver, use):
    module = use()
    module.shape = (4, 1, *ROI)
    folder = make_bundle()
    bundle = with_engine(folder, module.plan(), batch=4, graph="model.fp32.b4.onnx")
    session = open_session(bundle, EngineOptions(engine="trt-rtx", device="cuda"))
    assert session.batch == 4
    windows = np.concatenate([WINDOW, WINDOW[:, :, ::-1], WINDOW / 2])
    np.testing.assert_array_equal(session.run(windows), network(windows))
    with pytest.raises(EngineError, match="not have the shape of the graph"):
        session.run(np.concatenate([windows, windows]))


def test_kernels_compiled_at_run_time_are_kept_beside_the_bundle(make_bundle, driver, use):
    module = use()
    bundle = with_engine(make_bundle(), module.plan())
    module.jit_stored = b"kernels"
    open_session(bundle, EngineOptions(engine="trt-rtx", device="cuda")).close()
    assert module.jit_given == []
    assert list((bundle.folder.parent / "b.gcis.cache").glob("trt-rtx-jit-*.bin"))
    open_session(bundle, EngineOptions(engine="trt-rtx", device="cuda")).close()
    assert module.jit_given == [b"kernels"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"backend_version": "1.6.0"}, "built by TensorRT-RTX 1.6.0"),
        ({"device": "sm_120"}, "built for sm_120"),
        (None, "no trt-rtx engine"),
    ],
)
def test_an_engine_that_does_not_fit_is_built_again_and_kept(make_bundle, driver, use, changes, reason):
    module = use()
    folder = make_bundle()
    bundle = open_bundle(folder) if changes is None else with_engine(folder, module.plan(), **changes)
    session = open_session(bundle, EngineOptions(engine="trt-rtx", device="cuda"))
    assert reason in session.notes[0] and "built one for Test GPU" in session.notes[0]
    assert module.configs[0].capabilities == {0: "SM89"}
    np.testing.assert_array_equal(session.run(WINDOW), network(WINDOW))
    session.close()
    again = open_session(bundle, EngineOptions(engine="trt-rtx", device="cuda"))
    assert "cached engine that was built for Test GPU" in again.notes[0] and len(module.configs) == 1


def test_where_nothing_can_be_built_the_reason_is_the_error(make_bundle, driver, use):
    use("tensorrt_lean", "10.10.0", builder=False)
    bundle = with_engine(make_bundle(), b"{}", backend="trt", backend_version="10.9.0")
    with pytest.raises(EngineError, match=r"does not fit: it was built by TensorRT 10\.9\.0, 10\.10\.0"):
        open_session(bundle, EngineOptions(engine="trt", device="cuda"))


def test_a_gpu_that_rtx_does_not_serve(make_bundle, driver, use, monkeypatch):
    use()
    monkeypatch.setattr(probe, "probe_driver", fake_cuda.driver_with(fake_cuda.gpu((9, 0), name="H100")))
    with pytest.raises(EngineError, match=r"does not support this GPU; received H100 \(sm_90\)"):
        open_session(open_bundle(make_bundle()), EngineOptions(engine="trt-rtx", device="cuda"))


def test_swapped_after_opening_is_not_loaded(make_bundle, driver, use):
    module = use()
    bundle = with_engine(make_bundle(), module.plan())
    (bundle.folder / "engines/e.engine").write_bytes(module.plan(precision="Half"))
    with pytest.raises(BundleError, match="a different size"):
        open_session(bundle, EngineOptions(engine="trt-rtx", device="cuda"))


def test_another_precision_than_the_manifest_says(make_bundle, driver, use):
    module = use()
    bundle = with_engine(make_bundle(), module.plan(precision="Half"))
    with pytest.raises(
        EngineError, match="not compute in the precision of its graph; received fp16; expected fp32"
    ):
        open_session(bundle, EngineOptions(engine="trt-rtx", device="cuda"))
    assert driver.alive == {}


def test_another_graph_than_the_manifest_says(make_bundle, driver, use):
    module = use()
    bundle = with_engine(make_bundle(), module.plan(inputs="other"))
    with pytest.raises(BundleError, match="input is not the one"):
        open_session(bundle, EngineOptions(engine="trt-rtx", device="cuda"))


@pytest.mark.parametrize("what", ["deserialise", "context", "execute"])
def test_refusals_of_tensorrt(make_bundle, driver, use, what):
    module = use()
    bundle = with_engine(make_bundle(), module.plan())
    module.fail, module.error = {what}, "Version tag does not match"
    with pytest.raises(EngineError, match=r"TensorRT-RTX cannot .*; received Version tag does not match"):
        open_session(bundle, EngineOptions(engine="trt-rtx", device="cuda"))
    assert driver.alive == {}
    module.error = "Cuda error 2 (out of memory)"
    with pytest.raises(DeviceMemoryError, match="out of memory"):
        open_session(bundle, EngineOptions(engine="trt-rtx", device="cuda"))


def test_auto_takes_a_tensorrt_that_the_bundle_is_made_for(make_bundle, driver, use, cuda_ort, monkeypatch):
    from gcis_runtime.engines import factory

    module = use()
    bundle = with_engine(make_bundle(), module.plan())
    monkeypatch.setattr(factory, "_installed", lambda name: name == "tensorrt_rtx")
    assert open_session(bundle, EngineOptions(device="cuda")).name == "trt-rtx"
    monkeypatch.setattr(factory, "_installed", lambda name: False)
    assert open_session(bundle, EngineOptions(device="cuda")).name == "onnx"


def test_an_abandoned_tensorrt_session_is_freed_and_another_thread_may_close(make_bundle, driver, use):
    bundle = with_engine(make_bundle(), use().plan())
    options = EngineOptions(engine="trt-rtx", device="cuda")
    session = open_session(bundle, options)
    session.run(WINDOW)
    session.enqueue()
    thread = threading.Thread(target=session.close)
    thread.start()
    thread.join()
    assert driver.alive == {}
    session = open_session(bundle, options)
    session.enqueue()
    del session
    gc.collect()
    assert driver.alive == {}
