"""Measure the ceiling of an engine: one large matrix product in its precision, in the same process."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from gcis_runtime.latency.product_graph import product_graph

SIZE = 2048
"""Rows and columns: 17 billion operations on 50 MB, far more than caches hold."""
REPEATS = 4


def write_products(folder: Path, size: int = SIZE) -> dict[str, Path]:
    """Write `matrix @ constant` as ONNX files, in float32 and with 8-bit operands.

    Args:
        folder: Folder of the files.
        size: Rows and columns.

    Returns:
        File of each precision; bf16 uses the float32 graph, since bf16 is a setting of the engine.
    """
    files = {name: folder / f"product_{name}.onnx" for name in ("fp32", "int8")}
    for name, path in files.items():
        path.write_bytes(product_graph(size, eight_bit=name == "int8"))
    return {**files, "bf16": files["fp32"]}


def gflops(engine: str, precision: str, file: Path, *, threads: int) -> float:
    """Return the best of several runs in 1e9 operations per second; a multiply-add counts as two.

    Args:
        engine: `"onnx"` or `"openvino"`, on the CPU.
        precision: Precision of the product.
        file: File that `write_products` wrote for the precision.
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
    import onnxruntime as ort  # noqa: PLC0415 (load only the engine that is measured)

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
        settings["INFERENCE_PRECISION_HINT"] = "f32"  # as in int8 sessions on such processors
    compiled = core.compile_model(str(file), "CPU", settings)
    request = compiled.create_infer_request()
    size = int(compiled.inputs[0].shape[0])
    return size, lambda x: request.infer([x], share_inputs=True, share_outputs=True)
