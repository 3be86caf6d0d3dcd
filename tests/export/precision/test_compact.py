"""Test that large constants are replaced by smaller ones of exactly the same values."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from gcis_export.graph.optimize import node_types
from gcis_export.precision.compact import compacted

RNG = np.random.default_rng(12)


def graph_of(values: np.ndarray) -> onnx.ModelProto:
    """Return a graph that adds a constant of its input's type to its input."""
    kind = helper.np_dtype_to_tensor_dtype(values.dtype)
    ends = [helper.make_tensor_value_info(n, kind, values.shape) for n in ("image", "margins")]
    node = helper.make_node("Add", ["image", "constant"], ["margins"])
    graph = helper.make_graph(
        [node], "g", ends[:1], ends[1:], initializer=[numpy_helper.from_array(values, "constant")]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def result(model: onnx.ModelProto, image: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": image})[0]


def sums(dtype=np.int32) -> np.ndarray:
    return (RNG.integers(0, 90_000, (500, 1)) + RNG.integers(0, 900, (1, 12))).astype(dtype)


def padded() -> np.ndarray:
    """Return the index of a window with a token that pads it: one column has a value of its own."""
    index = np.arange(343)[::-1, None] + np.arange(344)[None]
    index[:, -1] = 2197
    return np.concatenate([index, index[:1]]).astype(np.int32)


def blocks() -> np.ndarray:
    """Return the regions of windows: rows of an identity matrix, in blocks that repeat."""
    masks = RNG.integers(0, 8, (3, 344))
    return np.eye(8, dtype=np.float32)[masks[RNG.integers(0, 3, 40)].reshape(-1)]


@pytest.mark.parametrize(
    ("values", "operators"),
    [
        (sums(), ["Add"]),
        (sums(np.int64), ["Add"]),
        (padded(), ["Add", "Max"]),
        (blocks(), ["Gather", "Reshape"]),
    ],
    ids=["sums", "64-bit sums", "padded window", "regions"],
)
def test_a_constant_with_structure_becomes_small(values, operators):
    model = graph_of(values)
    small = compacted(model)
    assert node_types(small) - node_types(model) == node_types(
        onnx.ModelProto(graph=onnx.GraphProto(node=[helper.make_node(o, [], []) for o in operators]))
    )
    assert small.ByteSize() < 0.4 * model.ByteSize()
    image = np.zeros(values.shape, values.dtype)
    np.testing.assert_array_equal(result(small, image), values)
    np.testing.assert_array_equal(result(model, image), values)


@pytest.mark.parametrize(
    "values",
    [
        RNG.integers(0, 900, (500, 12)).astype(np.int32),
        sums()[:40],
        RNG.standard_normal((500, 12)).astype(np.float32),
        blocks()[:64],
        RNG.standard_normal((40, 4, 8, 8)).astype(np.float32),
    ],
    ids=["no sums", "a small sum", "weights", "few rows", "kernel"],
)
def test_other_constants_stay(values):
    model = graph_of(values)
    assert compacted(model) == model


def test_a_nearly_structured_constant_stays():
    values = sums()
    values[137, 5] += 1
    assert compacted(graph_of(values)) == graph_of(values)


def test_equal_parts_are_stored_once_and_engines_fold_the_operators(tmp_path):
    values = sums()
    model = graph_of(values)
    model.graph.initializer.append(numpy_helper.from_array(values + 0, "again"))
    model.graph.node[0].output[0] = "first"
    model.graph.node.append(helper.make_node("Add", ["first", "again"], ["margins"]))
    small = compacted(model)
    assert len(small.graph.initializer) == 2 and len(small.graph.node) == 4
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "folded.onnx")
    onnxruntime.InferenceSession(small.SerializeToString(), options, providers=["CPUExecutionProvider"])
    folded = onnx.load(tmp_path / "folded.onnx")
    assert [n.op_type for n in folded.graph.node] == ["Add", "Add"]
    assert all(t.data_type == TensorProto.INT32 for t in folded.graph.initializer)
