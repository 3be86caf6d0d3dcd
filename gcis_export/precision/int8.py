"""INT8 by ONNX Runtime's quantiser: 3x3x3 convolutions in 8 bits between explicit Q/DQ, the rest in float32.

Weights are symmetric and per output channel, activations symmetric per tensor (TensorRT takes no other),
with ranges from calibration windows. The 3x3x3 convolutions hold three quarters of the time. Attention,
norms and linear layers stay in float, and so do convolutions that read the image, and 1x1x1 ones: OpenVINO
2026.4 gives wrong sums for them with signed activations (docs/decisions/0023-precision.md).
"""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from gcis_export.graph.write import INPUT
from gcis_runtime.errors import ImageError


def int8_graph(model: onnx.ModelProto, windows: Sequence[NDArray[np.float32]]) -> onnx.ModelProto:
    """Return a graph whose convolutions read and hold 8-bit integers.

    Args:
        model: A float32 graph of `gcis_export.graph.write.to_onnx`.
        windows: Calibration windows (batch, 1, X, Y, Z), pre-processed; they should hold what the network
            will see: a range that no window reaches is cut off.

    Raises:
        ImageError: No windows, or none with more than one value.
    """
    if not any(float(w.min()) < float(w.max()) for w in windows):
        raise ImageError(
            "INT8 cannot be calibrated",
            received=f"{len(windows)} windows, all of them constant",
            expected="windows that show tissue",
            fix="Give CT files that show the structures with --calibration.",
        )
    from onnxruntime.quantization import (  # noqa: PLC0415 (imports for a second)
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "fp32.onnx"), Path(folder, "int8.onnx")
        source.write_bytes(model.SerializeToString())
        root = logging.getLogger()
        level = root.level
        root.setLevel(logging.ERROR)  # it advises its own pre-processing, which this graph does not need
        try:
            quantize_static(
                str(source),
                str(target),
                _Reader(windows),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=["Conv"],
                nodes_to_quantize=quantised_nodes(model),
                per_channel=True,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                extra_options={
                    "ActivationSymmetric": True,
                    "WeightSymmetric": True,
                    "OpTypesToExcludeOutputQuantization": ["Conv"],
                },
            )
        finally:
            root.setLevel(level)
        quantised = onnx.load(str(target))
    return _clean(quantised, model)


def quantised_nodes(model: onnx.ModelProto) -> list[str]:
    """Return the names of the convolutions that compute in 8 bits: 3x3x3, and not on the image itself."""
    shapes = {t.name: tuple(t.dims) for t in model.graph.initializer}
    return [
        n.name
        for n in model.graph.node
        if n.op_type == "Conv" and INPUT not in n.input and shapes[n.input[1]][2:] == (3, 3, 3)
    ]


def _clean(quantised: onnx.ModelProto, model: onnx.ModelProto) -> onnx.ModelProto:
    """Keep the operators that we know and nothing that tells of this machine."""
    _restore_float(quantised.graph, set(quantised_nodes(model)))
    del quantised.metadata_props[:]
    del quantised.graph.value_info[:]
    quantised.producer_name, quantised.producer_version = "gcis", ""
    quantised.ir_version = model.ir_version
    del quantised.opset_import[:]
    quantised.opset_import.extend(model.opset_import)
    onnx.checker.check_model(quantised, full_check=True)
    return quantised


def _restore_float(graph: onnx.GraphProto, quantised: set[str]) -> None:
    """Let operators that compute in float read the float value, where the quantiser gave them the 8-bit one.

    A residual reads the same value as the convolution beside it; rounding it too would gain nothing.
    """
    exact = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "QuantizeLinear"}
    restored = {n.output[0]: exact[n.input[0]] for n in graph.node if n.input[:1] and n.input[0] in exact}
    for node in graph.node:
        if node.name not in quantised and node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            for place, name in enumerate(node.input):
                node.input[place] = restored.get(name, name)


class _Reader:
    """Calibration windows as ONNX Runtime's quantiser asks for them."""

    def __init__(self, windows: Sequence[NDArray[np.float32]]) -> None:
        self._windows = iter(windows)

    def get_next(self) -> dict[str, Any] | None:
        """Return the next window, or None at the end."""
        window = next(self._windows, None)
        return None if window is None else {INPUT: window}
