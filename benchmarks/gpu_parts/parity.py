"""Compare conformance cases in every precision, and the GPU kernels with numpy (section `parity`)."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.conformance import Conformance
from benchmarks.gpu_parts.context import Context
from benchmarks.gpu_parts.engines import onnx_runtime
from benchmarks.gpu_parts.state import NotHereError, Result, Row
from gcis_runtime.grids.resample import GridMap
from gcis_runtime.sliding.blend import logits_to_labels
from gcis_runtime.sliding.plan import WindowPlan, axis_starts
from gcis_runtime.sliding.schedule import Schedule, make_schedule

LIMIT = 1e-3
"""Largest allowed difference of a float32 logit from that of the published network."""
LABELS = 0.9999
"""Minimum share of equal labels in float32. In 16 bits both numbers are reported without a limit."""


def rows(context: Context) -> Iterator[Row]:
    """Return the rows of the section."""
    tiny, cuda = context.rig.tiny, context.rig.cuda
    yield Row(name="parity/blend/GPU against numpy", measure=partial(_on_gpu, context, blend_parity), worth=1)
    yield Row(
        name="parity/restore/GPU against numpy", measure=partial(_on_gpu, context, restore_parity), worth=1
    )
    for case in ("small",) if tiny else ("small", "two_pathways"):
        for way, compare in (("ONNX Runtime", _onnx), ("PyTorch", _pytorch)):
            for precision in ("fp32", "fp16", "bf16") if cuda else ("fp32",):
                first = case == "small" and way == "ONNX Runtime" and precision != "bf16"
                yield Row(
                    name=f"parity/{case}/{way} {precision}",
                    measure=partial(compare, context, case, precision),
                    worth=1 if first else 3,
                )


def _case(context: Context, name: str) -> Conformance:
    return Conformance(name, prompts=1 if context.rig.tiny else None)


def _pytorch(context: Context, name: str, precision: str) -> Result:
    case, rig = _case(context, name), context.rig
    net = case.static.to(rig.device)
    with torch.no_grad(), rig.computing(precision):
        logits = [net(torch.from_numpy(w[None]).to(rig.device)).float().cpu().numpy() for w in case.image]
    return _judged(case.compare(np.concatenate(logits)), precision)


def _onnx(context: Context, name: str, precision: str) -> Result:
    case, rig = _case(context, name), context.rig
    prompts = "-1" if rig.tiny else ""
    graph = context.graphs.get(
        f"parity-{name}{prompts}-{precision}", lambda: case.static, _roi(case.image), 1, precision
    )
    with rig.on_stream():
        run, facts = onnx_runtime(graph, rig)
        logits = [run(torch.from_numpy(w[None]).to(rig.device)).float().cpu().numpy() for w in case.image]
    return facts | _judged(case.compare(np.concatenate(logits)), precision)


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


def _on_gpu(context: Context, compare: Callable[[Any, bytes], Result]) -> Result:
    """Run a comparison of the GPU kernels with numpy."""
    if not context.rig.cuda:
        raise NotHereError("blending on the GPU needs a GPU")
    if importlib.util.find_spec("cuda") is None:
        raise NotHereError("needs cuda-python and nvidia-cuda-nvrtc")
    from gcis_runtime.engines.gpu.device import Device  # noqa: PLC0415 (needs cuda-python)
    from gcis_runtime.engines.gpu.probe import require_gpu  # noqa: PLC0415
    from gcis_runtime.sliding.cuda.kernels import compile_kernels  # noqa: PLC0415

    gpu = require_gpu("cuda")
    return compare(Device(gpu), compile_kernels(gpu.sm))


def blend_parity(device: Any, compiled: bytes) -> Result:
    """Blend random logits with the GPU kernels and with numpy along every slab axis, and count differences.

    Args:
        device: GPU.
        compiled: Kernels compiled for it.
    """
    works = _works(device, compiled)
    unequal = sum(int(np.sum(work.logits() != _whole(work.array, work.plan, work.weights))) for work in works)
    device.close()
    return {"unequal_values": unequal, "ok": unequal == 0}


def restore_parity(device: Any, compiled: bytes) -> Result:
    """Label finer, coarser and sheared files from interpolated logits with the GPU kernels and with numpy.

    Args:
        device: GPU.
        compiled: Kernels compiled for it.
    """
    unequal = 0
    for work in _works(device, compiled):
        logits = _whole(work.array, work.plan, work.weights)
        for scale, shear, shape in _FILES:
            matrix = np.diag([*scale, 1.0])
            matrix[1, 2] = shear
            grid = GridMap(matrix=matrix, shape_in=work.plan.shape, shape_out=shape)
            expected = logits_to_labels(np.stack([grid.linear(m) for m in logits]), values=_VALUES)
            unequal += int(np.sum(work.labels(grid) != expected))
    device.close()
    return {"unequal_labels": unequal, "ok": unequal == 0}


_FILES = (
    ((0.4, 0.7, 0.55), 0.0, (50, 44, 49)),
    ((1.9, 1.3, 2.2), 0.0, (11, 24, 13)),
    ((0.6, 0.9, 0.8), 0.17, (33, 34, 33)),
)
"""Network voxels per file voxel along each axis, shear of Y by Z, and shape of the file."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Work:
    """Windows over noise, with random blending weights."""

    session: Any
    kernels: Any
    plan: WindowPlan
    weights: NDArray[np.float32]
    array: NDArray[np.float32]

    def logits(self) -> NDArray[np.float32]:
        """Blend on the GPU and return logits (C, X, Y, Z) on the grid of the plan."""
        from gcis_runtime.sliding.cuda.output import NetworkGridOutput  # noqa: PLC0415 (needs cuda-python)

        output = NetworkGridOutput(self._schedule(), values=_VALUES, logits=True)
        return np.concatenate([d for _, d in self._blocks(output)], axis=self.plan.axis + 1)

    def labels(self, grid: GridMap) -> NDArray[np.uint8]:
        """Blend on the GPU and return labels on the grid of a file, (X, Y, Z)."""
        from gcis_runtime.sliding.cuda.output import NativeGridOutput  # noqa: PLC0415 (needs cuda-python)

        found = np.zeros(grid.shape_out, np.uint8)
        for box, data in self._blocks(NativeGridOutput(self._schedule(), grid=grid, values=_VALUES)):
            found[box] |= data
        return found

    def _schedule(self) -> Schedule:
        return make_schedule(self.plan)

    def _blocks(self, output: Any) -> Iterator[tuple[Any, NDArray[Any]]]:
        """Run all windows and yield the results."""
        from gcis_runtime.sliding.cuda.blend import GpuBlender  # noqa: PLC0415 (needs cuda-python)

        axis = self.plan.axis

        def some_planes(first: int, out: NDArray[np.float32]) -> Callable[[], None]:
            planes = np.moveaxis(self.array, axis, 0)[first : first + out.shape[axis]]
            out[...] = np.moveaxis(planes, 0, axis)
            return lambda: None

        blender = GpuBlender(
            self.session, self.kernels, self._schedule(), self.weights, channels=(0, 1, 2), output=output
        )
        try:
            yield from ((block.box, np.array(block.data)) for block in blender.blocks(some_planes))
        finally:
            blender.close()


def _works(device: Any, compiled: bytes) -> Iterator[_Work]:
    """Yield the same work for every slab axis."""
    from gcis_runtime.sliding.cuda.kernels import Kernels  # noqa: PLC0415 (needs cuda-python)

    rng = np.random.default_rng(0)
    weights = rng.uniform(0.1, 1, _ROI).astype(np.float32)
    session, kernels = _HostNetwork(device), Kernels(device, compiled)
    for axis in range(3):
        plan = _plan((20, 31, 27), axis)
        array = rng.random(plan.padded, dtype=np.float32)
        yield _Work(session=session, kernels=kernels, plan=plan, weights=weights, array=array)


def _answer(window: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return three different logits of both signs for a window (X, Y, Z)."""
    return np.stack([window - np.float32(0.5), np.float32(0.4) - window, np.float32(2) * window]).astype(
        np.float32
    )


class _HostNetwork:
    """Network computed on the host with input and output in GPU memory; see `DeviceSession`."""

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
    return WindowPlan(shape=shape, before=(0, 0, 0), padded=shape, patch_size=_ROI, axis=axis, starts=kept)


def _whole(array: NDArray[np.float32], plan: WindowPlan, weights: NDArray[np.float32]) -> NDArray[np.float32]:
    """Blend with numpy, with the whole volume in memory."""
    total = np.zeros((_CHANNELS, *plan.padded), np.float32)
    norm = np.zeros(plan.padded, np.float32)
    for start in plan.starts:
        box = tuple(slice(s, s + r) for s, r in zip(start, plan.patch_size, strict=True))
        total[(slice(None), *box)] += _answer(array[box]) * weights
        norm[box] += weights
    return total / norm
