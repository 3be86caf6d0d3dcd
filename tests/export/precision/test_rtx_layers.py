"""Build real TensorRT-RTX engines from rewritten graphs, and count the layers of the parsed networks."""

from __future__ import annotations

from typing import Any

import onnx
import pytest

from gcis_export.precision.typed import LowPrecision, typed_graph
from gcis_runtime.engines.tensorrt.build import BuildSettings, build
from gcis_runtime.engines.tensorrt.family import TRT_RTX
from tests.support.export_cases import demo_graph


def layers(trt: Any, model: onnx.ModelProto) -> int:
    """Return the number of layers of the parsed network."""
    log = trt.Logger(trt.Logger.ERROR)
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = trt.Builder(log).create_network(0 if flag is None else 1 << int(flag))
    assert trt.OnnxParser(network, log).parse(model.SerializeToString())
    return int(network.num_layers)


@pytest.mark.trt
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_rewritten_graph_becomes_an_engine_of_fewer_layers(precision: LowPrecision):
    trt = pytest.importorskip("tensorrt_rtx")
    demo = demo_graph()
    after = typed_graph(demo, precision)
    norms = {"InstanceNormalization", "ConvTranspose"} if precision == "bf16" else {"InstanceNormalization"}
    before = typed_graph(demo, precision, keep=norms, rewrites=())
    assert layers(trt, after) < 0.8 * layers(trt, before)
    built = build(TRT_RTX, after.SerializeToString(), BuildSettings())
    assert built.precision == precision
