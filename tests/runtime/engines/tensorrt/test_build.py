"""Test building for both TensorRT families: settings, precision that is read back, clear errors."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from gcis_runtime.bundles.manifest import Engine
from gcis_runtime.engines.tensorrt import build as build_module
from gcis_runtime.engines.tensorrt import family as family_module
from gcis_runtime.engines.tensorrt.build import BuildSettings, build
from gcis_runtime.engines.tensorrt.family import TRT, TRT_RTX, load_runner
from gcis_runtime.engines.tensorrt.fit import misfit
from gcis_runtime.engines.tensorrt.layers import precision_in_log, precision_in_report, precision_of_network
from gcis_runtime.errors import DeviceMemoryError, EngineError
from tests.support import fake_cuda
from tests.support.fake_tensorrt import FakeTensorrt, Layer

GPU = fake_cuda.gpu()


def use(monkeypatch, **options):
    module = FakeTensorrt(**options)
    monkeypatch.setattr(build_module, "load_builder", lambda family: module)
    return module


def test_trt_gets_every_setting(monkeypatch):
    module = use(monkeypatch)
    settings = BuildSettings(
        optimization_level=4, hardware_compatibility="ampere+", version_compatible=True, timing_cache=b"times"
    )
    built = build(TRT, b"half graph", settings, gpu=GPU)
    (config,) = module.configs
    assert module.network_flags == 1 << module.NetworkDefinitionCreationFlag.STRONGLY_TYPED
    assert config.on == {module.BuilderFlag.VERSION_COMPATIBLE, module.BuilderFlag.EXCLUDE_LEAN_RUNTIME}
    assert config.builder_optimization_level == 4
    assert config.hardware_compatibility_level.name == "AMPERE_PLUS"
    assert config.timing.given == b"times" and built.timing_cache == b"times+"
    assert config.profiling_verbosity.name == "DETAILED"
    assert module.parser_flags == [module.OnnxParserFlag.NATIVE_INSTANCENORM]
    assert (built.precision, built.device, built.version) == ("fp16", "sm_80+", "10.9.0.34")
    assert built.settings["version_compatible"] == "yes" and built.settings["gpu"] == "Test GPU"
    assert built.settings["precision_read_from"] == "typed network"


def test_trt_by_default_is_for_this_gpu_and_keeps_tf32_off(monkeypatch):
    module = use(monkeypatch)
    built = build(TRT, b"graph", BuildSettings(), gpu=GPU)
    assert module.configs[0].on == set() and module.parser_flags == []
    assert (built.precision, built.device) == ("fp32", "sm_89")
    build(TRT, b"graph", BuildSettings(tf32=True), gpu=GPU)
    assert module.configs[1].on == {module.BuilderFlag.TF32}


def test_an_open_batch_gets_a_profile(monkeypatch):
    module = use(monkeypatch)
    module.shape = (-1, 1, 64, 64, 64)
    built = build(TRT, b"graph", BuildSettings(max_batch=4), gpu=GPU)
    assert module.profile == ("image", (1, 1, 64, 64, 64), (4, 1, 64, 64, 64), (4, 1, 64, 64, 64))
    assert len(module.configs[0].profiles) == 1 and built.settings["batch"] == "1 to 4"


def test_rtx_is_narrowed_or_portable(monkeypatch):
    module = use(monkeypatch, name="tensorrt_rtx", version="1.7.1")
    assert build(TRT_RTX, b"graph", BuildSettings()).device == "sm_80+"
    assert module.configs[0].capabilities == {}
    built = build(TRT_RTX, b"bf16 graph", BuildSettings(capabilities=((8, 9), (8, 6))))
    assert module.configs[1].capabilities == {0: "SM89", 1: "SM86"}
    assert (built.device, built.precision) == ("sm_86,sm_89", "bf16")
    assert built.settings["precision_read_from"] == "engine layers"
    with pytest.raises(EngineError, match=r"does not build for this compute capability; received 9\.0"):
        build(TRT_RTX, b"graph", BuildSettings(capabilities=((9, 0),)))


def test_the_engines_own_layers_win_over_the_graph(monkeypatch):
    module = use(monkeypatch, name="tensorrt_rtx")
    module.built = "Float"
    assert build(TRT_RTX, b"half graph", BuildSettings()).precision == "fp32"


def test_refusals_are_clear(monkeypatch):
    module = use(monkeypatch)
    with pytest.raises(EngineError, match="built on the GPU that will run them"):
        build(TRT, b"graph", BuildSettings())
    module.fail, module.error = {"build"}, "no implementation for node X"
    with pytest.raises(EngineError, match="cannot build the engine; received no implementation for node X"):
        build(TRT, b"graph", BuildSettings(), gpu=GPU)
    module.error = "Requested amount of GPU memory could not be allocated: OutOfMemory"
    with pytest.raises(DeviceMemoryError, match="cannot build the engine: out of memory"):
        build(TRT, b"graph", BuildSettings(), gpu=GPU)
    module.fail = {"parse"}
    with pytest.raises(EngineError, match="cannot parse the graph; received operator Foo"):
        build(TRT, b"graph", BuildSettings(), gpu=GPU)
    del module.__class__.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY
    module.fail = set()
    with pytest.raises(EngineError, match="no such hardware-compatibility level"):
        build(TRT, b"graph", BuildSettings(hardware_compatibility="same"), gpu=GPU)


def test_modules_are_found_or_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(family_module.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        EngineError, match=r"TensorRT is not installed; expected tensorrt or tensorrt_lean.*gcis\[trt\]"
    ):
        load_runner(TRT)
    asked = []
    monkeypatch.setattr(
        family_module.importlib.util, "find_spec", lambda n: n if n == "tensorrt_lean" else None
    )
    monkeypatch.setattr(family_module, "import_package", lambda name, *, needs: asked.append((name, needs)))
    load_runner(TRT)
    assert asked == [("tensorrt_lean", "Runtime")]

    def broken(name, *, needs):
        raise OSError("libnvinfer.so.10: cannot open shared object file")

    monkeypatch.setattr(family_module, "import_package", broken)
    with pytest.raises(EngineError, match=r"cannot be loaded; received libnvinfer"):
        load_runner(TRT)


def engine(**changes):
    fields = {
        "backend": "trt", "precision": "fp16", "file": "e", "graph": "g", "backend_version": "10.9.0",
        "device": "sm_89", "settings": {"hardware_compatibility": "none", "gpu": "Test GPU"},
    }  # fmt: skip
    return Engine(**{**fields, **changes})


@pytest.mark.parametrize(
    ("changes", "family", "version", "gpu", "reason"),
    [
        ({}, TRT, "10.9.0", (8, 9), None),
        ({}, TRT, "10.10.0", (8, 9), "built by TensorRT 10.9.0, 10.10.0 is installed"),
        ({}, TRT, "10.9.0", (8, 6), "built for sm_89, Test GPU is sm_86"),
        (
            {"settings": {"hardware_compatibility": "none", "gpu": "Other"}},
            TRT,
            "10.9.0",
            (8, 9),
            "built on Other",
        ),
        ({"settings": {"hardware_compatibility": "same", "gpu": "Other"}}, TRT, "10.9.0", (8, 9), None),
        ({"settings": {"version_compatible": "yes"}}, TRT, "10.10.0", (8, 9), None),
        ({"settings": {"version_compatible": "yes"}}, TRT, "10.8.0", (8, 9), "built by"),
        ({"settings": {"version_compatible": "yes"}}, TRT, "11.0.0", (8, 9), "built by"),
        ({"device": "sm_80+", "settings": {}}, TRT, "10.9.0", (12, 0), None),
        ({"device": "sm_80+", "settings": {}}, TRT, "10.9.0", (7, 5), "built for"),
        ({"device": "sm_86,sm_89", "settings": {}}, TRT, "10.9.0", (8, 9), None),
        ({"device": "sm_86,sm_89", "settings": {}}, TRT, "10.9.0", (8, 0), "built for"),
        ({"device": "sm_80+", "settings": {}}, TRT_RTX, "10.9.0", (9, 0), "does not support Test GPU"),
    ],
)
def test_what_fits(changes, family, version, gpu, reason):
    found = misfit(engine(**changes), family, version=version, gpu=fake_cuda.gpu(gpu))
    assert (found is None) == (reason is None)
    assert reason is None or reason in found


def test_layers_in_three_spellings():
    log = (
        "Name: a, LayerType: kgen, Inputs: [ { Name: x, Datatype: Float }], Constants: []\n"
        "Name: b, LayerType: correlation, Inputs: [ { Dimensions: [1,2], Datatype: Half }], Constants: []\n"
        "Name: c, LayerType: correlation, Inputs: [ { Name: y, Datatype: Half }], Outputs: []\n"
        "Name: d, LayerType: correlation, Inputs: [ { Name: y, Datatype: Float }], Outputs: []\n"
    )
    assert precision_in_log(log) == "fp16"
    assert precision_in_log(log.replace("correlation", "gemm").replace("Half", "BFloat16")) == "bf16"
    assert precision_in_log("Name: a, LayerType: kgen, Inputs: [ { Datatype: Half }], Constants: []") is None
    old = '{"Layers": [{"LayerType": "CaskConvolution", "Inputs": [{"Format/Datatype": "INT8 format"}]}]}'
    assert precision_in_report(old) == "int8"
    new = '{"Layers": [{"LayerType": "correlation", "Inputs": [{"Datatype": "Half"}]}, "name only"]}'
    assert precision_in_report(new) == "fp16"
    for text in ("", "[]", '{"Layers": ["conv"]}'):
        assert precision_in_report(text) is None


def test_convolutions_behind_a_dequantize_are_8_bit():
    """The network declares float where the engine computes with integers."""
    float32 = SimpleNamespace(name="FLOAT")
    layers = [
        Layer("DEQUANTIZE", float32, gives="restored"),
        Layer("CONVOLUTION", float32, reads="restored"),
        Layer("CONVOLUTION", float32, reads="other"),
    ]
    network = SimpleNamespace(num_layers=len(layers), get_layer=layers.__getitem__)
    assert precision_of_network(network) == "int8"
    layers[0].gives = "unread"
    assert precision_of_network(network) == "fp32"


def conv_graph(dtype):
    """Return a typed network: float32 input and output, one convolution in `dtype`."""
    kernel = np.random.default_rng(0).standard_normal((8, 1, 3, 3, 3)).astype(np.float32)
    weights = numpy_helper.from_array(kernel, "kernel32")
    nodes = [
        helper.make_node("Cast", ["image"], ["x"], to=dtype),
        helper.make_node("Cast", ["kernel32"], ["kernel"], to=dtype),
        helper.make_node("Conv", ["x", "kernel"], ["y"], pads=[1] * 6),
        helper.make_node("Cast", ["y"], ["margins"], to=TensorProto.FLOAT),
    ]
    tensor = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "g", [tensor("image", TensorProto.FLOAT, [1, 1, 32, 32, 32])],
        [tensor("margins", TensorProto.FLOAT, [1, 8, 32, 32, 32])], [weights],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)
    onnx.checker.check_model(model)
    return model.SerializeToString()


@pytest.mark.trt
@pytest.mark.parametrize(
    ("dtype", "precision"),
    [(TensorProto.FLOAT, "fp32"), (TensorProto.FLOAT16, "fp16"), (TensorProto.BFLOAT16, "bf16")],
)
def test_rtx_builds_what_the_graph_says(dtype, precision):
    pytest.importorskip("tensorrt_rtx")
    built = build(TRT_RTX, conv_graph(dtype), BuildSettings())
    assert (built.precision, built.device) == (precision, "sm_80+")
    assert built.settings["precision_read_from"] == "engine layers"
    assert len(built.plan) > 10_000


@pytest.mark.trt
def test_rtx_builds_the_same_bytes_twice_and_others_for_one_gpu():
    pytest.importorskip("tensorrt_rtx")
    graph = conv_graph(TensorProto.FLOAT16)
    first, again = (build(TRT_RTX, graph, BuildSettings()).plan for _ in range(2))
    assert first == again
    assert build(TRT_RTX, graph, BuildSettings(capabilities=((8, 9),))).plan != first


@pytest.mark.trt
def test_rtx_refusals_are_errors_and_no_crash():
    pytest.importorskip("tensorrt_rtx")
    with pytest.raises(EngineError, match="cannot parse the graph"):
        build(TRT_RTX, b"not a graph", BuildSettings())
    with pytest.raises(EngineError, match="compute capability"):
        build(TRT_RTX, conv_graph(TensorProto.FLOAT), BuildSettings(capabilities=((9, 0),)))
    code = (
        "from gcis_runtime.engines.tensorrt.family import *; from gcis_runtime.engines.doctor import examine\n"  # noqa: E501
        "print([f.why for f in examine()['engines'] if f.engine == 'trt-rtx'])"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, capture_output=True).returncode == 0


@pytest.mark.trt
def test_the_fake_has_the_names_of_the_real_module():
    trt = pytest.importorskip("tensorrt_rtx")
    for name, members in vars(FakeTensorrt).items():
        if hasattr(members, "__dict__") and not callable(members) and not name.startswith("_"):
            there = getattr(trt, name)
            assert [m for m in vars(members) if not hasattr(there, m)] == [], name
    for owner, names in {
        trt.Builder: ["create_network", "create_builder_config", "build_serialized_network"],
        trt.IBuilderConfig: ["set_compute_capability", "num_compute_capabilities", "create_timing_cache"],
        trt.Runtime: ["deserialize_cuda_engine"],
        trt.ICudaEngine: ["create_runtime_config", "get_tensor_name", "get_tensor_mode", "num_io_tensors"],
        trt.IRuntimeConfig: ["create_runtime_cache", "set_runtime_cache", "cuda_graph_strategy"],
        trt.IRuntimeCache: ["serialize", "deserialize"],
        trt.IExecutionContext: [
            "execute_async_v3",
            "set_tensor_address",
            "set_input_shape",
            "get_tensor_shape",
        ],
        trt.EngineInspector: ["get_engine_information"],
    }.items():
        assert [n for n in names if not hasattr(owner, n)] == []
