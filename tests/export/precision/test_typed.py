"""Test graphs in other precisions: their types, and that values are rounded values of the float32 graph."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.graphs import moved_bytes
from gcis_export.engines.onnx import read_precision
from gcis_export.graph.optimize import node_types
from gcis_export.precision.emulate import emulated
from gcis_export.precision.int8 import int8_graph, quantised_nodes
from gcis_export.precision.typed import KEEP_FLOAT, typed_graph, value_types
from gcis_runtime.engines.openvino.quiet_import import import_openvino
from gcis_runtime.errors import ImageError, ParityError

ELEMENT = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}


def run(model: onnx.ModelProto, window: np.ndarray) -> np.ndarray:
    """Run a graph in ONNX Runtime without optimizations."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {session.get_inputs()[0].name: window})[0]


def make(nodes: list, weights: dict[str, np.ndarray], shape: list[int]) -> onnx.ModelProto:
    """Return a graph from `image` to `logits`, which have the same shape."""
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("image", "margins")]
    initializers = [numpy_helper.from_array(v, name=n) for n, v in weights.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], initializer=initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture(scope="module")
def network(built):
    """Return one conformance case, which is sufficient here."""
    if built.case.prompts != 2:
        pytest.skip("one case is enough")
    return built


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_operators_are_16_bit_and_ends_float32(network, precision):
    typed = typed_graph(network.model, precision)
    types = value_types(typed)
    wide = KEEP_FLOAT[precision]
    for node in typed.graph.node:
        if node.op_type in {"Conv", "ConvTranspose", "MatMul", "Gemm", "LayerNormalization"} - wide:
            assert {types[name] for name in (*node.input, *node.output) if name} == {ELEMENT[precision]}
        if node.op_type in wide:
            assert {types[name] for name in (*node.input, *node.output)} == {TensorProto.FLOAT}
    assert types["image"] == types["margins"] == TensorProto.FLOAT
    assert typed.opset_import[0].version == {"fp16": 20, "bf16": 22}[precision]
    assert typed.ByteSize() < 0.9 * network.model.ByteSize()  # half of the weights; rows keep 32-bit numbers
    assert not node_types(typed)["Pad"]  # ONNX Runtime has no bfloat16 Pad on CUDA
    assert onnx.checker.check_model(network.model, full_check=True) is None  # the original is untouched


def test_a_float16_graph_has_casts_at_its_ends_alone(network):
    typed = typed_graph(network.model, "fp16")
    casts = [node for node in typed.graph.node if node.op_type == "Cast"]
    assert [node.input[0] for node in casts[:1]] == ["image"] and casts[-1].output[0] == "margins"
    assert len(casts) == 2
    wide = typed_graph(network.model, "fp16", keep={"InstanceNormalization"}, rewrites=())
    assert moved_bytes(typed) < 0.8 * moved_bytes(wide)
    types = value_types(typed)
    for node in typed.graph.node:
        if node.op_type in ("InstanceNormalization", "LeakyRelu", "LayerNormalization", "Gelu", "Softmax"):
            assert {types[name] for name in (*node.input, *node.output) if name} == {TensorProto.FLOAT16}


def test_a_typed_network_gives_its_numbers_rounded(network):
    window = network.case.image[:1].numpy()
    expected = network.logits[:1].numpy()
    gaps = {}
    for precision in ("fp16", "bf16"):
        answer = run(emulated(typed_graph(network.model, precision)), window)
        gaps[precision] = np.abs(answer - expected).max() / np.abs(expected).max()
    # Random weights amplify: a trained network gives 3e-3 and 1e-2.
    assert 1e-4 < gaps["fp16"] < 0.1  # 11 bits: the roundings happen, and do little
    assert 2 * gaps["fp16"] < gaps["bf16"] < 0.5  # 8 bits


def test_every_value_that_is_typed_low_is_rounded():
    """x * 1, rounded to bfloat16 on the way in and again on the way out, is x with 8 bits."""
    nodes = [helper.make_node("MatMul", ["image", "one"], ["margins"])]
    typed = typed_graph(make(nodes, {"one": np.eye(3, dtype=np.float32)}, [1, 3]), "bf16")
    x = np.array([[1.00390625, -3.14159, 0]], np.float32)  # 1 + 2^-8 ties to even: 1
    np.testing.assert_array_equal(run(emulated(typed), x)[0, :2], [1.0, -3.140625])


def test_what_is_kept_computes_in_float32():
    nodes = [
        helper.make_node("MatMul", ["image", "w"], ["y"]),
        helper.make_node("Softmax", ["y"], ["margins"], axis=-1),
    ]
    model = make(nodes, {"w": np.eye(4, dtype=np.float32)}, [2, 4])
    low, wide = typed_graph(model, "fp16"), typed_graph(model, "fp16", keep={"Softmax"})
    softmax = [next(n for n in m.graph.node if n.op_type == "Softmax") for m in (low, wide)]
    assert value_types(low)[softmax[0].input[0]] == TensorProto.FLOAT16
    assert value_types(wide)[softmax[1].input[0]] == TensorProto.FLOAT
    x = np.array([[0.5, 1.25, -2, 3], [1, 2, 3, 4]], np.float32)
    exact = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    assert np.abs(run(emulated(wide), x) - exact).max() < 1e-6
    assert 1e-6 < np.abs(run(emulated(low), x) - exact).max() < 1e-3


@pytest.mark.parametrize("op", ["LayerNormalization", "InstanceNormalization", "Softmax"])
def test_norms_in_16_bit_steps_lie_further_from_the_truth(op):
    shape = [2, 3, 4, 4, 4]
    inputs = {"LayerNormalization": ["s"], "InstanceNormalization": ["s", "b"], "Softmax": []}[op]
    size = shape[1] if op == "InstanceNormalization" else shape[-1]
    weights = {"s": np.full(size, 1.5, np.float32), "b": np.full(size, 0.25, np.float32)}
    nodes = [
        helper.make_node("MatMul", ["image", "one"], ["x"]),  # gives the operator 16-bit input
        helper.make_node(op, ["x", *inputs], ["margins"]),
    ]
    model = make(nodes, {n: weights[n] for n in inputs} | {"one": np.eye(4, dtype=np.float32)}, shape)
    noise = np.random.default_rng(3).standard_normal(shape) * 3 + 20
    x = (np.round(noise * 8) / 8).astype(np.float32)  # which bfloat16 holds exactly
    typed = typed_graph(model, "bf16", keep=())
    exact = run(model, x)
    gaps = [np.abs(run(emulated(typed, steps=s), x) - exact).max() for s in (False, True)]
    assert gaps[0] > 0 and gaps[0] <= gaps[1] < 0.3


def test_a_weight_beyond_float16_is_refused_and_bf16_recommended():
    nodes = [helper.make_node("MatMul", ["image", "w"], ["margins"])]
    model = make(nodes, {"w": np.diag([1.0, 7e4]).astype(np.float32)}, [1, 2])
    with pytest.raises(ParityError, match="too large for float16") as error:
        typed_graph(model, "fp16")
    assert "--precision bf16" in error.value.fix
    assert typed_graph(model, "bf16").graph.initializer[0].data_type == TensorProto.BFLOAT16


def test_int8_quantises_large_convolutions_alone(network, tmp_path):
    windows = [window[None].numpy() for window in network.case.image]
    quantised = int8_graph(network.model, windows)
    makers = {name: node for node in quantised.graph.node for name in node.output}
    weights = {t.name: t for t in quantised.graph.initializer}
    found = set()
    for node in quantised.graph.node:
        reads = [makers[n].op_type == "DequantizeLinear" for n in node.input[:2] if n in makers]
        if node.op_type == "Conv" and any(reads):
            assert reads == [True, True]
            stored = weights[makers[node.input[1]].input[0]]
            assert stored.data_type == TensorProto.INT8 and tuple(stored.dims)[2:] == (3, 3, 3)
            assert list(weights[makers[node.input[1]].input[1]].dims) == [stored.dims[0]]  # a scale a channel
            found.add(node.name)
        elif node.op_type != "QuantizeLinear":
            assert not any(reads)
    assert found == set(quantised_nodes(network.model))
    zeros = [makers[n].input[2] for n in makers if makers[n].op_type == "QuantizeLinear"]
    assert all(not numpy_helper.to_array(weights[z]).any() for z in zeros)  # symmetric, as TensorRT wants it
    expected = network.logits[:1].numpy()
    answer = run(quantised, windows[0])
    gap = np.abs(answer - expected).max() / np.abs(expected).max()
    assert 1e-4 < gap < 0.3
    assert np.mean((answer > 0) != (expected > 0)) < 0.1  # random weights: logits lie around zero everywhere
    _check_openvino(quantised, len(found), windows[0], expected)
    file = tmp_path / "model.onnx"
    file.write_bytes(quantised.SerializeToString())
    assert read_precision(file) == "fp32"  # ONNX Runtime takes the 8-bit values and multiplies in float32


@pytest.mark.parametrize(
    ("element", "expected"),
    # A half-typed convolution is widened on the CPU, whatever the file says.
    [(np.float32, "fp32"), (np.float16, "fp32")],
    ids=str,
)
def test_onnx_runtime_says_what_it_computes_in(element, expected, tmp_path):
    model = make([helper.make_node("Conv", ["image", "w"], ["margins"])], {}, [1, 1, 4, 4, 4])
    model.graph.initializer.append(numpy_helper.from_array(np.ones((1, 1, 1, 1, 1), element), "w"))
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(element))
    for end in (model.graph.input[0], model.graph.output[0]):
        end.type.tensor_type.elem_type = kind
    onnx.save(model, tmp_path / "model.onnx")
    assert read_precision(tmp_path / "model.onnx") == expected


def test_an_8_bit_convolution_of_onnx_runtime_is_read_as_one(tmp_path):
    nodes = [
        helper.make_node("QuantizeLinear", ["image", "s", "z"], ["q"]),
        helper.make_node("QLinearConv", ["q", "s", "z", "w", "s", "z", "s", "z"], ["y"]),
        helper.make_node("DequantizeLinear", ["y", "s", "z"], ["margins"]),
    ]
    weights = {
        "s": np.array(0.1, np.float32),
        "z": np.array(0, np.uint8),
        "w": np.ones((1, 1, 1, 1), np.uint8),
    }
    onnx.save(make(nodes, weights, [1, 1, 4, 4]), tmp_path / "model.onnx")
    assert read_precision(tmp_path / "model.onnx") == "int8"


def _check_openvino(quantised: onnx.ModelProto, count: int, window: np.ndarray, expected: np.ndarray) -> None:
    """Check that OpenVINO computes these convolutions in 8 bits, with logits close to the network's."""
    core = import_openvino().Core()
    compiled = core.compile_model(
        core.read_model(quantised.SerializeToString(), b""), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
    )
    info = [node.get_rt_info() for node in compiled.get_runtime_model().get_ordered_ops()]
    kinds = [str(i["runtimePrecision"].value) for i in info if i["layerType"].value == "Convolution"]
    assert sum(kind in ("u8", "i8") for kind in kinds) == count
    answer = compiled([window])[0]
    assert np.abs(answer - expected).max() / np.abs(expected).max() < 0.3
    assert np.mean((answer > 0) != (expected > 0)) < 0.1


@pytest.mark.parametrize("windows", [[], [np.zeros((1, 1, 8, 8, 8), np.float32)]])
def test_int8_refuses_windows_that_show_nothing(windows):
    with pytest.raises(ImageError, match="cannot be calibrated"):
        int8_graph(onnx.ModelProto(), windows)
