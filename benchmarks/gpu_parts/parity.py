"""Parity: conformance cases in every precision, and blending on the GPU against numpy."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.gpu_parts.context import Context
from benchmarks.gpu_parts.engines import onnx_runtime
from benchmarks.gpu_parts.networks import Conformance
from benchmarks.gpu_parts.state import NotHereError, Result, Row
from gcis_runtime.windows import WindowPlan, axis_starts

LIMIT = 1e-3
"""Largest difference of a float32 margin from the published network's."""
LABELS = 0.9999
"""Share of voxels that must have its label in float32. For 16 bits both are stated, not judged."""


def rows(context: Context) -> Iterator[Row]:
    """Return the section's rows."""
    tiny, cuda = context.rig.tiny, context.rig.cuda
    for case in ("small",) if tiny else ("small", "two_pathways"):
        for precision in ("fp32", "fp16", "bf16") if cuda else ("fp32",):
            yield f"parity/{case}/PyTorch {precision}", lambda c=case, p=precision: _pytorch(context, c, p)  # type: ignore[misc]
        for precision in ("fp32", "fp16", "bf16") if cuda else ("fp32",):
            yield f"parity/{case}/ONNX Runtime {precision}", lambda c=case, p=precision: _onnx(context, c, p)  # type: ignore[misc]
    yield "parity/blend/GPU against numpy", lambda: _blend(context)


def _case(context: Context, name: str) -> Conformance:
    return Conformance(name, prompts=1 if context.rig.tiny else None)


def _pytorch(context: Context, name: str, precision: str) -> Result:
    case, rig = _case(context, name), context.rig
    net = case.static.to(rig.device)
    with torch.no_grad(), rig.autocast(precision):
        margins = [net(torch.from_numpy(w[None]).to(rig.device)).float().cpu().numpy() for w in case.image]
    return _judged(case.compare(np.concatenate(margins)), precision)


def _onnx(context: Context, name: str, precision: str) -> Result:
    case, rig = _case(context, name), context.rig
    prompts = "-1" if rig.tiny else ""
    graph = context.graphs.get(
        f"parity-{name}{prompts}-{precision}", case.static, _roi(case.image), 1, precision
    )
    with rig.on_stream():
        run, facts = onnx_runtime(graph, rig)
        margins = [run(torch.from_numpy(w[None]).to(rig.device)).float().cpu().numpy() for w in case.image]
    return facts | _judged(case.compare(np.concatenate(margins)), precision)


def _roi(image: NDArray[np.float32]) -> tuple[int, int, int]:
    x, y, z = image.shape[2:]
    return x, y, z


def _judged(numbers: dict[str, Any], precision: str) -> Result:
    if precision != "fp32":
        return numbers
    good = numbers["max_difference"] <= LIMIT and numbers["labels_equal"] >= LABELS
    return numbers | {"ok": good, "limit": LIMIT, "labels_wanted": LABELS}


_ROI = (8, 12, 10)
_CHANNELS = 3
_VALUES = (1, 2, 3)


def _blend(context: Context) -> Result:
    """Blend random margins with our kernels and with numpy: equal bit for bit."""
    if not context.rig.cuda:
        raise NotHereError("blending on the GPU needs a GPU")
    if importlib.util.find_spec("cuda") is None:
        raise NotHereError("needs cuda-python and nvidia-cuda-nvrtc")
    from gcis_runtime.cuda.device import Device  # noqa: PLC0415 (needs cuda-python)
    from gcis_runtime.cuda.kernels import compile_kernels  # noqa: PLC0415
    from gcis_runtime.cuda.probe import require_gpu  # noqa: PLC0415

    gpu = require_gpu("cuda")
    return blend_parity(Device(gpu), compile_kernels(gpu.sm))


def blend_parity(device: Any, compiled: bytes) -> Result:
    """Compare both blends on every slab axis.

    Args:
        device: The GPU.
        compiled: Our kernels, compiled for it.
    """
    from gcis_runtime.cuda.blend import GpuBlender  # noqa: PLC0415 (needs cuda-python)
    from gcis_runtime.cuda.finish import GridFinish  # noqa: PLC0415
    from gcis_runtime.cuda.kernels import Kernels  # noqa: PLC0415
    from gcis_runtime.cuda.slabs import group_windows  # noqa: PLC0415

    rng = np.random.default_rng(0)
    weights = rng.uniform(0.1, 1, _ROI).astype(np.float32)
    unequal = 0
    session = _HostNetwork(device)
    kernels = Kernels(device, compiled)
    for axis in range(3):
        plan = _plan((20, 31, 27), axis)
        array = rng.random(plan.padded, dtype=np.float32)

        def some_rows(first: int, out: NDArray[np.float32], a: Any = array, at: int = axis) -> None:
            planes = np.moveaxis(a, at, 0)[first : first + out.shape[at]]
            out[...] = np.moveaxis(planes, 0, at)

        finish = GridFinish(plan, group_windows(plan), values=_VALUES, margins=True)
        blender = GpuBlender(session, kernels, plan, weights, channels=(0, 1, 2), finish=finish)
        try:
            parts = [np.array(slab.data) for slab in blender.slabs(some_rows)]
        finally:
            blender.close()
        unequal += int(np.sum(np.concatenate(parts, axis=axis + 1) != _whole(array, plan, weights)))
    device.close()
    return {"unequal_values": unequal, "ok": unequal == 0}


def _answer(window: NDArray[np.float32]) -> NDArray[np.float32]:
    """Map a window (X, Y, Z) to three different margins of both signs."""
    return np.stack([window - np.float32(0.5), np.float32(0.4) - window, np.float32(2) * window]).astype(
        np.float32
    )


class _HostNetwork:
    """A network that the host runs between copies, on the GPU's memory; see `DeviceSession`."""

    name, device, precision, batch = "host", "cuda:0", "fp32", 1

    def __init__(self, gpu: Any) -> None:
        self.gpu, self.stream = gpu, gpu.stream()
        size = 4 * int(np.prod(_ROI))
        self.input, self.output = gpu.allocate(size), gpu.allocate(_CHANNELS * size)
        self._there, self._back = gpu.pinned(_CHANNELS * size), gpu.pinned(size)

    def enqueue(self) -> None:
        gpu = self.gpu
        gpu.download(self._back.address, self.input, self.input.bytes, self.stream)
        gpu.finish(self.stream)
        self._there.view((_CHANNELS, *_ROI), np.float32)[...] = _answer(self._back.view(_ROI, np.float32))
        gpu.upload(self.output, self._there.address, self.output.bytes, self.stream)
        gpu.finish(self.stream)


def _plan(shape: tuple[int, int, int], axis: int) -> WindowPlan:
    along = [axis_starts(n, r, 0.5) for n, r in zip(shape, _ROI, strict=True)]
    starts = sorted(itertools.product(*along), key=lambda s: (s[axis], s))
    kept = tuple((x, y, z) for x, y, z in starts)
    return WindowPlan(shape=shape, before=(0, 0, 0), padded=shape, roi=_ROI, axis=axis, starts=kept)


def _whole(array: NDArray[np.float32], plan: WindowPlan, weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Blend with numpy, holding everything."""
    total = np.zeros((_CHANNELS, *plan.padded), np.float32)
    norm = np.zeros(plan.padded, np.float32)
    for start in plan.starts:
        box = tuple(slice(s, s + r) for s, r in zip(start, plan.roi, strict=True))
        total[(slice(None), *box)] += _answer(array[box]) * weights
        norm[box] += weights
    return total / norm
