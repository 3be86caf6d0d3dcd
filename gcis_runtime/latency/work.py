"""Count the multiplications of an ONNX graph without the onnx package.

ONNX Runtime's profile of an unoptimised session lists the input and output shapes of each operator.
"""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

_PRODUCTS = ("Conv", "ConvTranspose", "MatMul", "Gemm")


def multiplications(graph: Path | bytes) -> int:
    """Return the multiplications of one window in convolutions and matrix products.

    Runs the graph once on zeros, in float32 on the CPU.

    Args:
        graph: ONNX graph, or its file, with one input of static shape.
    """
    import onnxruntime as ort  # noqa: PLC0415 (the processes that are measured load it themselves)

    with tempfile.TemporaryDirectory() as folder:
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL  # no fused operators
        options.enable_profiling, options.profile_file_prefix = True, str(Path(folder, "profile"))
        session = ort.InferenceSession(
            graph if isinstance(graph, bytes) else str(graph), options, providers=["CPUExecutionProvider"]
        )
        (window,) = session.get_inputs()
        session.run(None, {window.name: np.zeros(window.shape, np.float32)})
        events = json.loads(Path(session.end_profiling()).read_text())
    return sum(_of_operator(event["args"]) for event in events if "op_name" in event.get("args", {}))


def _of_operator(facts: dict[str, Any]) -> int:
    """Return the multiplications of one executed operator; 0 for events without shapes."""
    if facts["op_name"] not in _PRODUCTS or "output_type_shape" not in facts:
        return 0
    image: list[int]
    weight: list[int]
    image, weight, *_ = (next(iter(shape.values())) for shape in facts["input_type_shape"])
    out: list[int] = next(iter(facts["output_type_shape"][0].values()))
    if facts["op_name"] == "Conv":
        return math.prod(out) * math.prod(weight[1:])
    if facts["op_name"] == "ConvTranspose":
        return math.prod(image) * math.prod(weight[1:])
    return math.prod(out) * image[-1]
