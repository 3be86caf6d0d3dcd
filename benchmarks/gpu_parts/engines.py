"""Run ONNX Runtime and TensorRT for timing, with fixed buffers in device memory and one stream."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu_parts.rig import Rig
from benchmarks.gpu_parts.state import NotHereError
from gcis_runtime.engines.gpu.probe import require_gpu

Engine = Callable[[Tensor], Tensor]
"""Maps windows (B, 1, X, Y, Z) on the device to logits (B, prompts, X, Y, Z), valid until the next call."""


def onnx_runtime(graph: bytes, rig: Rig) -> tuple[Engine, dict[str, Any]]:
    """Load a graph into ONNX Runtime with the CUDA provider, or with the CPU provider on a CPU.

    Returns:
        The engine, and its provider, version and batch.

    Raises:
        NotHereError: ONNX Runtime is not installed, or another provider was selected.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        raise NotHereError("onnxruntime is not installed")
    import onnxruntime as ort  # noqa: PLC0415 (optional package)

    options = ort.SessionOptions()
    options.log_severity_level = 3
    wanted: list[Any] = ["CPUExecutionProvider"]
    if rig.cuda:
        if hasattr(ort, "preload_dlls"):
            ort.preload_dlls()  # CUDA and cuDNN of PyTorch's packages
        stream = {"user_compute_stream": str(rig.stream.cuda_stream), "use_tf32": "0"}
        wanted = [("CUDAExecutionProvider", stream)]
    else:
        options.intra_op_num_threads = torch.get_num_threads()
    session = ort.InferenceSession(graph, options, providers=wanted)
    provider = session.get_providers()[0]
    expected = "CUDAExecutionProvider" if rig.cuda else "CPUExecutionProvider"
    if provider != expected:
        raise NotHereError(f"ONNX Runtime {ort.__version__} selected {provider}, expected {expected}")
    (source,), (target,) = session.get_inputs(), session.get_outputs()
    held = torch.empty(tuple(source.shape), device=rig.device)
    out = torch.empty(tuple(target.shape), device=rig.device)
    binding = session.io_binding()
    binding.bind_input(source.name, rig.device.type, 0, np.float32, tuple(held.shape), held.data_ptr())
    binding.bind_output(target.name, rig.device.type, 0, np.float32, tuple(out.shape), out.data_ptr())
    rig.synchronize()

    def run(window: Tensor) -> Tensor:
        held.copy_(window)
        session.run_with_iobinding(binding)
        return out

    return run, {"provider": provider, "version": ort.__version__, "batch": held.shape[0]}


def tensorrt(graph: bytes, rig: Rig, *, backend: str) -> tuple[Engine, dict[str, Any]]:
    """Build an engine on this GPU and load it.

    Args:
        graph: ONNX file; its types determine the precision.
        rig: Device.
        backend: `"trt"` or `"trt-rtx"`.

    Raises:
        NotHereError: TensorRT is not installed, or does not support this GPU.
    """
    from gcis_runtime.engines.tensorrt.build import BuildSettings, build  # noqa: PLC0415
    from gcis_runtime.engines.tensorrt.family import FAMILIES, load_runner  # noqa: PLC0415
    from gcis_runtime.engines.tensorrt.log import make_log  # noqa: PLC0415
    from gcis_runtime.errors import EngineError  # noqa: PLC0415 (optional package)

    family = FAMILIES[backend]
    try:
        trt = load_runner(family)
    except EngineError as error:
        raise NotHereError(str(error)) from error
    if not rig.cuda:
        raise NotHereError(f"{family.product} runs on NVIDIA GPUs only")
    gpu = require_gpu("cuda")
    if not family.serves(gpu.capability):
        major, minor = gpu.capability
        raise NotHereError(
            f"{family.product} does not support compute capability {major}.{minor} ({gpu.name})"
        )
    built = build(family, graph, BuildSettings(), gpu=gpu)
    log = make_log(trt)
    runtime = trt.Runtime(log)
    engine = runtime.deserialize_cuda_engine(built.plan)
    context = engine.create_execution_context()
    buffers = {}
    for name in (engine.get_tensor_name(i) for i in range(engine.num_io_tensors)):
        buffers[name] = torch.empty(tuple(engine.get_tensor_shape(name)), device=rig.device)
        context.set_tensor_address(name, buffers[name].data_ptr())
    modes = {name: engine.get_tensor_mode(name) for name in buffers}
    held = next(b for name, b in buffers.items() if modes[name] == trt.TensorIOMode.INPUT)
    out = next(b for name, b in buffers.items() if modes[name] != trt.TensorIOMode.INPUT)

    def run(window: Tensor, _kept: Any = (log, runtime, engine)) -> Tensor:
        held.copy_(window)
        if not context.execute_async_v3(rig.stream.cuda_stream):
            raise RuntimeError(f"{family.product} failed to enqueue the window")
        return out

    facts = {"version": built.version, "precision": built.precision, "build_seconds": round(built.seconds, 1)}
    return run, {**facts, "batch": held.shape[0]}
