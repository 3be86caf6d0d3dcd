"""Test graphs of other batch sizes and precisions: every sample of a batch is compared."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from gcis_export.gate.parity import STATIC, Gate, Reference
from gcis_export.precision.variants import add_graph, convert
from gcis_runtime.errors import ParityError

SHAPE = (1, 1, 4, 4, 4)


def graph(*, batch: int, samples: list[int]) -> onnx.ModelProto:
    """Return a graph that doubles the image; output sample n is computed from input sample `samples[n]`."""
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, (batch, *SHAPE[1:])) for n in ("image", "margins")
    ]
    nodes = [
        helper.make_node("Gather", ["image", "samples"], ["chosen"], axis=0),
        helper.make_node("Conv", ["chosen", "two"], ["margins"]),
    ]
    weights = [
        numpy_helper.from_array(np.array(samples, np.int32), "samples"),
        numpy_helper.from_array(np.full((1, 1, 1, 1, 1), 2, np.float32), "two"),
    ]
    made = helper.make_graph(nodes, "g", ends[:1], ends[1:], initializer=weights)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


@pytest.fixture
def gate():
    rng = np.random.default_rng(4)
    return Gate([rng.standard_normal(SHAPE).astype(np.float32) for _ in range(3)])


def add(folder, gate, model, precision, **options):
    reference = Reference(name=STATIC, answers=[2 * window for window in gate.windows])
    return add_graph(folder, model, precision, gate=gate, reference=reference, **options)


def test_a_batch_is_written_and_compared(gate, tmp_path):
    written, entry = add(tmp_path, gate, graph(batch=2, samples=[0, 1]), "fp32", batch=2)
    assert (written.file, written.batch, written.weights_dtype) == ("model.fp32.b2.onnx", 2, "float32")
    assert entry.bytes == (tmp_path / written.file).stat().st_size
    assert gate.rows[0].graph == written.file and gate.rows[0].max_abs == 0


@pytest.mark.parametrize("samples", [[1, 0], [0, 0], [1, 1]], ids=str)
def test_samples_that_mix_are_caught(gate, tmp_path, samples):
    with pytest.raises(ParityError, match="batch 2 differs from"):
        add(tmp_path, gate, graph(batch=2, samples=samples), "fp32", batch=2)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("precision", "dtype"), [("fp16", "float16"), ("bf16", "bfloat16")])
def test_a_typed_graph_is_compared_with_its_roundings(gate, tmp_path, precision, dtype):
    model = convert(graph(batch=1, samples=[0]), precision, calibration=[])
    written, _ = add(tmp_path, gate, model, precision)
    assert (written.file, written.weights_dtype) == (f"model.{precision}.onnx", dtype)
    assert 0 < gate.rows[0].max_abs < 0.05


def test_a_graph_that_rounding_breaks_is_caught(gate, tmp_path):
    """1000 + x, minus 1000: in bfloat16 the result does not depend on x."""
    model = graph(batch=1, samples=[0])
    model.graph.node[-1].output[0] = "y"
    far = numpy_helper.from_array(np.full(1, 1e4, np.float32), "far")
    model.graph.initializer.append(far)
    model.graph.node.append(helper.make_node("Add", ["y", "far"], ["z"]))
    model.graph.node.append(helper.make_node("Sub", ["z", "far"], ["margins"]))
    with pytest.raises(ParityError, match="bf16 graph"):
        add(tmp_path, gate, convert(model, "bf16", calibration=[]), "bf16")
