"""Test the rewrites of the 16-bit graphs: each removes what it should, and the results stay the same."""

from __future__ import annotations

from collections import Counter
from functools import partial

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from benchmarks.graphs import moved_bytes, run_operators
from gcis_export.graph.network import ExportNet
from gcis_export.graph.optimize import node_types
from gcis_export.graph.rewrite.apply import REWRITES, rewritten
from gcis_export.graph.rewrite.attention import join_attention
from gcis_export.graph.rewrite.core import find_core
from gcis_export.graph.rewrite.draft import Draft
from gcis_export.graph.rewrite.residual import add_residual
from gcis_export.graph.rewrite.rows import gather_rows
from gcis_export.graph.rewrite.upmerge import merge_up
from gcis_export.graph.write import to_onnx
from gcis_train.nets.config import NetworkConfig
from gcis_train.nets.network import StaticGcisNet
from gcis_train.nets.pathway import Pathway
from tests.support.export_cases import demo_graph, randomise

RNG = np.random.default_rng(8)


def run(model: onnx.ModelProto, window: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, {session.get_inputs()[0].name: window})[0]


def make(nodes: list, weights: dict[str, np.ndarray], shape: list[int], out: list[int]) -> onnx.ModelProto:
    """Return a float32 graph from `image` to `margins`."""
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s)
        for n, s in (("image", shape), ("margins", out))
    ]
    initializers = [numpy_helper.from_array(v, name=n) for n, v in weights.items()]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], initializer=initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def apply(model: onnx.ModelProto, *rewrites) -> onnx.ModelProto:
    draft = Draft(model)
    for rewrite in rewrites:
        rewrite(draft)
    return draft.finished()


def gap(model: onnx.ModelProto, other: onnx.ModelProto, window: np.ndarray) -> float:
    """Return the largest difference relative to the largest value."""
    a, b = run(model, window), run(other, window)
    return float(np.abs(a - b).max() / np.abs(a).max())


def test_each_rewrite_reduces_work(built):
    models = [apply(built.model, *REWRITES[:count]) for count in range(len(REWRITES) + 1)]
    for rewrite, before, after in zip(REWRITES, models, models[1:], strict=False):
        lost = node_types(before) - node_types(after)
        gained = node_types(after) - node_types(before)
        if rewrite is gather_rows:
            assert lost["Pad"] == 6 and not gained["Pad"] and lost["Transpose"] >= 6 and lost["Slice"] >= 2
        if rewrite is join_attention:  # one product per block instead of one per mask
            assert node_types(after)["Softmax"] == 8 and node_types(after)["MatMul"] == 16
            assert lost["Split"] >= 8 and lost["Where"] == lost["Equal"] == 1
        if rewrite is add_residual:
            assert lost == Counter(Add=8) and not gained
        if rewrite is merge_up:  # as many operators, less to move
            ups = node_types(after)["ConvTranspose"]
            assert (lost, gained) == (Counter(Concat=ups), Counter(Add=ups))
            assert moved_bytes(after) < moved_bytes(before)
    assert run_operators(models[-1]) < 0.9 * run_operators(built.model)
    # Eight more channels weigh more than what is saved if a head has four, as at this feature size.
    assert moved_bytes(models[-1]) < 1.02 * moved_bytes(built.model)


@pytest.mark.slow
def test_each_rewrite_keeps_the_results(built):
    """Moving rows and joining groups change no bit; the others change the order of sums."""
    window = built.case.image[:1].numpy()
    limits = {gather_rows: 0, join_attention: 0, add_residual: 1e-4, merge_up: 1e-4}  # random weights amplify
    for count, rewrite in enumerate(REWRITES, start=1):
        after = apply(built.model, *REWRITES[:count])
        assert gap(built.model, after, window) <= limits[rewrite], rewrite.__name__


def test_a_trained_network_keeps_five_digits():
    demo = demo_graph()
    assert gap(demo, rewritten(demo), RNG.random((1, 1, 64, 64, 64), dtype=np.float32)) < 1e-5


def window_nodes(*, crop: bool) -> list:
    """Return the operators that cut 6 x 5 rows of 4 values into windows of 3 x 3 rows."""
    nodes = [
        helper.make_node("Relu", ["image"], ["x"]),
        helper.make_node("Reshape", ["x", "volume"], ["a"]),
        helper.make_node("Pad", ["a", "pads"], ["b"]),
        helper.make_node("Reshape", ["b", "cut"], ["c"]),
        helper.make_node("Transpose", ["c"], ["d"], perm=[0, 2, 1, 3, 4]),
        helper.make_node("Reshape", ["d", "rows"], ["e"]),
    ]
    if crop:
        nodes += [helper.make_node("Slice", ["e", "starts", "ends", "axes"], ["f"])]
    return [*nodes, helper.make_node("Sigmoid", [nodes[-1].output[0]], ["margins"])]


WINDOWS = {
    "volume": np.array([6, 5, 4]),
    "pads": np.array([0, 0, 0, 0, 1, 0]),
    "cut": np.array([2, 3, 2, 3, 4]),
    "rows": np.array([36, 4]),
    "starts": np.array([5]),
    "ends": np.array([36]),
    "axes": np.array([0]),
}


@pytest.mark.parametrize("crop", [False, True])
def test_a_chain_that_moves_rows_becomes_one_gather(crop):
    model = make(window_nodes(crop=crop), WINDOWS, [30, 4], [31 if crop else 36, 4])
    after = apply(model, gather_rows)
    assert node_types(after) == Counter(["Relu", "Concat", "Gather", "Sigmoid"])
    image = RNG.standard_normal((30, 4)).astype(np.float32)
    np.testing.assert_array_equal(run(after, image), run(model, image))


@pytest.mark.parametrize(
    ("nodes", "out"),
    [
        # Values move within rows.
        ([("Transpose", ["x"], {"perm": [1, 0]}), ("Reshape", ["$", "same"], {})], [30, 4]),
        # Rows are padded with ones, or cut off by a negative pad.
        ([("Pad", ["x", "more", "one"], {}), ("Reshape", ["$", "wide"], {})], [31, 4]),
        ([("Pad", ["x", "fewer"], {}), ("Reshape", ["$", "short"], {})], [29, 4]),
    ],
)
def test_other_chains_are_left_alone(nodes, out):
    weights = {
        "same": np.array([30, 4]),
        "wide": np.array([31, 4]),
        "short": np.array([29, 4]),
        "more": np.array([0, 0, 1, 0]),
        "fewer": np.array([0, 0, -1, 0]),
        "one": np.array(1, np.float32),
    }
    made, last = [helper.make_node("Relu", ["image"], ["x"])], "x"
    for number, (op, inputs, attributes) in enumerate(nodes):
        names = [last if name == "$" else name for name in inputs]
        last = f"y{number}"
        made.append(helper.make_node(op, names, [last], **attributes))
    model = make([*made, helper.make_node("Sigmoid", [last], ["margins"])], weights, [30, 4], out)
    assert node_types(rewritten(model)) == node_types(model)


def test_a_value_that_others_read_is_kept():
    """A chain does not reach beyond a value that is read twice."""
    nodes = [*window_nodes(crop=False)[:-1], helper.make_node("ReduceSum", ["a"], ["s"], keepdims=0)]
    nodes.append(helper.make_node("Add", ["e", "s"], ["margins"]))
    model = make(nodes, WINDOWS, [30, 4], [36, 4])
    image = RNG.standard_normal((30, 4)).astype(np.float32)
    np.testing.assert_allclose(run(rewritten(model), image), run(model, image), rtol=1e-6)


def test_up_sampling_and_concatenation_are_merged():
    nodes = [
        helper.make_node("ConvTranspose", ["image", "up"], ["a"], strides=[2, 2, 2]),
        helper.make_node("Relu", ["a0"], ["b"]),
        helper.make_node("Concat", ["a", "b"], ["c"], axis=1),
        helper.make_node("Conv", ["c", "one"], ["margins"], kernel_shape=[1, 1, 1]),
    ]
    nodes.insert(0, helper.make_node("ConvTranspose", ["image", "other"], ["a0"], strides=[2, 2, 2]))
    weights = {n: RNG.standard_normal((3, 5, 2, 2, 2)).astype(np.float32) for n in ("up", "other")}
    weights["one"] = RNG.standard_normal((4, 10, 1, 1, 1)).astype(np.float32)
    model = make(nodes, weights, [1, 3, 2, 2, 2], [1, 4, 4, 4, 4])
    after = apply(model, merge_up)
    assert node_types(after) == Counter(["ConvTranspose", "ConvTranspose", "Relu", "Conv", "Add"])
    assert gap(model, after, RNG.standard_normal((1, 3, 2, 2, 2)).astype(np.float32)) < 1e-6
    assert apply(model, partial(merge_up, sparing=True)) == after, "640 elements against 120 weights"
    tiny = make(nodes, weights, [1, 3, 1, 1, 1], [1, 4, 2, 2, 2])  # 80 elements
    assert node_types(apply(tiny, partial(merge_up, sparing=True))) == node_types(tiny)
    assert node_types(apply(tiny, merge_up))["Concat"] == 0
    nodes[-1].input.append("bias")  # the rewrite would have to place it
    weights["bias"] = np.ones(4, np.float32)
    biased = make(nodes, weights, [1, 3, 2, 2, 2], [1, 4, 4, 4, 4])
    assert node_types(apply(biased, merge_up)) == node_types(biased)


@pytest.mark.parametrize("order", [["margins.x", "e"], ["e", "margins.x"]], ids=str)
def test_an_mlp_adds_its_residual_itself(order):
    nodes = [
        helper.make_node("Relu", ["image"], ["margins.x"]),
        helper.make_node("Gemm", ["margins.x", "w1", "b1"], ["c"], transB=1),
        helper.make_node("Gelu", ["c"], ["d"]),
        helper.make_node("Gemm", ["d", "w2", "b2"], ["e"], transB=1),
        helper.make_node("Add", order, ["margins"]),
    ]
    shapes = {"w1": (32, 8), "b1": (32,), "w2": (8, 32), "b2": (8,)}
    weights = {n: RNG.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    model = make(nodes, weights, [6, 8], [6, 8])
    after = apply(model, add_residual)
    assert node_types(after) == Counter(["Relu", "Gemm", "Gelu", "Gemm"])
    assert gap(model, after, RNG.standard_normal((6, 8)).astype(np.float32)) < 1e-6
    sparing = partial(add_residual, sparing=True)  # 48 elements against 512 weights
    assert node_types(apply(model, sparing)) == node_types(model)
    many = make(nodes, weights, [64, 8], [64, 8])
    assert node_types(apply(many, sparing)) == node_types(after)


def test_masks_are_exact_in_half_precision(built):
    """The channels of the masks add 0 within a region and -100 between regions, without rounding."""
    draft = Draft(built.model)
    gather_rows(draft)
    cores = [find_core(draft, node) for node in draft.nodes if node.op_type == "Split"]
    masked = [core for core in cores if core is not None and core.masked]
    assert [core.masked for core in masked] == [-100.0] * 3
    after = apply(built.model, gather_rows, join_attention)
    for core in masked:
        assert int(core.sizes.sum()) == core.windows and core.regions.shape == (8, 343)
    values = {t.name: numpy_helper.to_array(t) for t in after.graph.initializer}
    wide = [v for n, v in values.items() if n.endswith("qkv.weight.wide") and v.shape[1] % 12 == 8]
    biases = [v for n, v in values.items() if n.endswith("qkv.bias.wide")]
    assert len(wide) == 3
    for weight in wide:
        channels = weight.shape[1] - 8
        heads = channels // 4  # feature size 12: four channels a head
        query, key, _ = weight.reshape(3, heads, 12, channels + 8)[:, 0, 4:, channels:].astype(np.float16)
        offset = next(b for b in biases if b.size == weight.shape[0]).reshape(3, heads, 12)[1, 0, 4:]
        codes = np.eye(8, dtype=np.float16)
        product = (codes @ query.T) @ (codes @ key.T + offset.astype(np.float16)).T
        np.testing.assert_array_equal(product, np.where(np.eye(8), 0, -100))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("roi", "batch"), [((64, 96, 128), 1), ((96, 96, 64), 1), ((64, 64, 64), 2), ((128, 128, 128), 1)]
)
def test_other_windows_and_batches_keep_the_results(roi, batch):
    static = StaticGcisNet(NetworkConfig(feature_size=12), [Pathway((0,) * 7)]).eval()
    randomise(static)
    model = to_onnx(ExportNet(static, roi, batch))
    after = rewritten(model)
    assert gap(model, after, RNG.random((batch, 1, *roi), dtype=np.float32)) < 1e-4
    assert not {"Pad", "Slice", "Where"} & set(node_types(after)) and node_types(after)["Softmax"] == 8
