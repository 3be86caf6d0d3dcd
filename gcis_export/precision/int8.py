"""Quantise 3x3x3 convolutions to INT8 with explicit Q/DQ operators; all other operators stay in float32.

Weights are quantised symmetrically per output channel, activations symmetrically per tensor (TensorRT
supports no other scheme), with ranges from calibration windows. The 3x3x3 convolutions take three quarters of
the run time. Attention, norms and linear layers stay in float32, and so do convolutions of the image and
1x1x1 convolutions: OpenVINO 2026.4 returns wrong sums for them with signed activations
(docs/decisions/0023-precision.md).
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
    """Return a graph whose 3x3x3 convolutions have 8-bit inputs and weights.

    Args:
        model: Float32 graph written by `gcis_export.graph.write.to_onnx`.
        windows: Preprocessed calibration windows (batch, 1, X, Y, Z); they should be representative, because
            values outside their range are clipped.

    Raises:
        ImageError: There are no windows, or all of them are constant.
    """
    if not any(float(w.min()) < float(w.max()) for w in windows):
        raise ImageError(
            "INT8 cannot be calibrated",
            received=f"{len(windows)} windows, all of them constant",
            expected="windows that contain tissue",
            fix="Pass CT files that contain the structures with --calibration.",
        )
    from onnxruntime.quantization import (  # noqa: PLC0415 (takes a second to import)
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
        root.setLevel(logging.ERROR)  # hides the advice to preprocess the model: this one needs none
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
    """Return the names of the convolutions to quantise: 3x3x3, except those that read the image."""
    shapes = {t.name: tuple(t.dims) for t in model.graph.initializer}
    return [
        n.name
        for n in model.graph.node
        if n.op_type == "Conv" and INPUT not in n.input and shapes[n.input[1]][2:] == (3, 3, 3)
    ]


def _clean(quantised: onnx.ModelProto, model: onnx.ModelProto) -> onnx.ModelProto:
    """Remove metadata of the quantiser and restore float inputs of operators that were not quantised."""
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
    """Connect operators that compute in float to the float values where the quantiser connected 8-bit values.

    A residual connection shares its input with a quantised convolution; rounding the residual gains nothing.
    """
    exact = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "QuantizeLinear"}
    restored = {n.output[0]: exact[n.input[0]] for n in graph.node if n.input[:1] and n.input[0] in exact}
    for node in graph.node:
        if node.name not in quantised and node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            for place, name in enumerate(node.input):
                node.input[place] = restored.get(name, name)


class _Reader:
    """Provide calibration windows through the interface of ONNX Runtime's `CalibrationDataReader`."""

    def __init__(self, windows: Sequence[NDArray[np.float32]]) -> None:
        self._windows = iter(windows)

    def get_next(self) -> dict[str, Any] | None:
        """Return the next window by input name, or None after the last one."""
        window = next(self._windows, None)
        return None if window is None else {INPUT: window}
