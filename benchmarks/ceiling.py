"""The most that an engine reaches here: one large matrix product, in its own precision, in the same run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from gcis_runtime.bundles.manifest import Precision

SIZE = 2048
"""Rows and columns: 17 billion operations, far beyond every cache, far below memory."""
REPEATS = 4


def write_product(folder: Path, size: int = SIZE) -> dict[Precision, Path]:
    """Write `matrix @ constant` as ONNX, in float32 (also for bf16, which is a hint) and in 8 bits.

    Needs the onnx package, which the process that measures an engine should not hold.

    Args:
        folder: Where the files go.
        size: Rows and columns.

    Returns:
        The file to run for each precision.
    """
    import onnx  # noqa: PLC0415 (not in the engine's process)
    from onnx import TensorProto, helper, numpy_helper  # noqa: PLC0415

    rng = np.random.default_rng(0)
    plain = rng.standard_normal((size, size), dtype=np.float32)
    eighth = rng.integers(-127, 128, (size, size), dtype=np.int8)
    scales = [numpy_helper.from_array(np.float32(2 / 127), n) for n in ("scale", "weight_scale")]
    zeros = [numpy_helper.from_array(np.int8(0), "zero")]
    graphs = {
        "fp32": (
            [helper.make_node("MatMul", ["x", "w"], ["y"])],
            [numpy_helper.from_array(plain, "w")],
        ),
        "int8": (
            [
                helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
                helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"]),
                helper.make_node("DequantizeLinear", ["w", "weight_scale", "zero"], ["v"]),
                helper.make_node("MatMul", ["d", "v"], ["y"]),
            ],
            [numpy_helper.from_array(eighth, "w"), *scales, *zeros],
        ),
    }
    files: dict[Precision, Path] = {}
    for name, (nodes, constants) in graphs.items():
        ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [size, size]) for n in "xy"]
        graph = helper.make_graph(nodes, "product", ends[:1], ends[1:], initializer=constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
        onnx.checker.check_model(model)
        path = folder / f"product_{name}.onnx"
        path.write_bytes(model.SerializeToString())
        files["int8" if name == "int8" else "fp32"] = path
    return {**files, "bf16": files["fp32"]}


def gflops(engine: str, precision: str, file: Path, *, threads: int) -> float:
    """Return 1e9 operations a second (a multiplication and an addition are two) of the best of some runs.

    Args:
        engine: `"onnx"` or `"openvino"`, on the CPU.
        precision: What to compute in.
        file: What `write_product` wrote for it.
        threads: CPU threads.
    """
    size, run = (_onnx if engine == "onnx" else _openvino)(file, precision, threads)
    matrix = np.random.default_rng(1).standard_normal((size, size), dtype=np.float32)
    run(matrix)
    best = float("inf")
    for _ in range(REPEATS):
        started = time.perf_counter()
        run(matrix)
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best / 1e9


def _onnx(file: Path, _precision: str, threads: int) -> tuple[int, Any]:
    import onnxruntime as ort  # noqa: PLC0415 (only the engine that is measured)

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 3
    session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return session.get_inputs()[0].shape[0], lambda x: session.run(None, {"x": x})


def _openvino(file: Path, precision: str, threads: int) -> tuple[int, Any]:
    from gcis_runtime.engines.openvino.quiet_import import import_openvino  # noqa: PLC0415 (as above)

    settings = {
        "INFERENCE_PRECISION_HINT": "f32" if precision == "fp32" else "bf16",
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
    }
    core = import_openvino().Core()
    if precision != "fp32" and "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        settings["INFERENCE_PRECISION_HINT"] = "f32"  # as the session does beside 8 bits
    compiled = core.compile_model(str(file), "CPU", settings)
    request = compiled.create_infer_request()
    size = int(compiled.inputs[0].shape[0])
    return size, lambda x: request.infer([x], share_inputs=True, share_outputs=True)
