"""Compile the CUDA kernels for a GPU with NVRTC, and launch them with typed arguments."""

from __future__ import annotations

import hashlib
import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gcis_runtime.engines.gpu.device import BLOCK, Buffer, Device, import_bindings
from gcis_runtime.errors import EngineError
from gcis_runtime.spec import Shape3
from gcis_runtime.system.private_cache import PrivateCache

NAMES = (
    "scatter", "value_range", "crop", "accumulate", "finish_labels8", "finish_labels16", "finish_logits",
    "resample_separable", "resample_sheared",
)  # fmt: skip
OPTIONS = ("--fmad=false", "--std=c++17", "--device-as-default-execution-space")
"""Without fused multiply-add: sums and interpolated logits must equal those of NumPy."""


def source() -> str:
    """Return the CUDA C++ source of the kernels."""
    return resources.files("gcis_runtime.sliding.cuda").joinpath("kernels.cu").read_text(encoding="utf-8")


def compile_kernels(sm: str, *, nvrtc: Any = None) -> bytes:
    """Compile the kernels to machine code.

    Args:
        sm: Compute capability, such as `"sm_89"`.
        nvrtc: `cuda.bindings.nvrtc` or an object with the same interface.

    Returns:
        A cubin. If NVRTC is older than the GPU, PTX for the newest architecture that NVRTC supports, which
        the driver compiles.

    Raises:
        EngineError: NVRTC is missing, or compilation fails.
    """
    nvrtc = nvrtc or import_bindings("nvrtc")
    known = _known(nvrtc)
    native = int(sm.removeprefix("sm_")) in known
    target = f"--gpu-architecture={sm if native else f'compute_{max(known)}'}"
    program = _nvrtc(nvrtc, "nvrtcCreateProgram", source().encode(), b"kernels.cu", 0, None, None)
    options = [option.encode() for option in (target, *OPTIONS)]
    (result,) = nvrtc.nvrtcCompileProgram(program, len(options), options)
    if int(result):
        log = bytes(_nvrtc(nvrtc, "nvrtcGetProgramLogSize", program))
        _nvrtc(nvrtc, "nvrtcGetProgramLog", program, log)
        raise EngineError(
            "NVRTC cannot compile the kernels",
            received=" ".join(log.decode(errors="replace").split())[:300],
            fix="Use --device cpu.",
        )
    kind = "CUBIN" if native else "PTX"
    image = bytes(_nvrtc(nvrtc, f"nvrtcGet{kind}Size", program))
    _nvrtc(nvrtc, f"nvrtcGet{kind}", program, image)
    _nvrtc(nvrtc, "nvrtcDestroyProgram", program)
    return image


def _known(nvrtc: Any) -> list[int]:
    """Return the architectures that NVRTC supports.

    Raises:
        EngineError: The NVRTC library is missing.
    """
    try:
        count = _nvrtc(nvrtc, "nvrtcGetNumSupportedArchs")
        return list(_nvrtc(nvrtc, "nvrtcGetSupportedArchs"))[:count]
    except (ImportError, OSError, RuntimeError) as error:  # raised by cuda-python if the library is missing
        raise EngineError(
            "running on a GPU needs NVRTC, CUDA's run-time compiler",
            received=str(error).splitlines()[0][:200],
            fix="Install it: pip install 'gcis[cuda]'; or use --device cpu.",
        ) from error


def _nvrtc(nvrtc: Any, name: str, *arguments: Any) -> Any:
    """Call an NVRTC function and return its result without the status code."""
    result, *answer = getattr(nvrtc, name)(*arguments)
    if int(result):
        raise EngineError("NVRTC failed", received=f"{getattr(result, 'name', result)} from {name}")
    return answer[0] if answer else None


@dataclass(frozen=True, kw_only=True)
class RingBox:
    """RingBox of a ring buffer, in voxels (X, Y, Z).

    Attributes:
        ring: Shape of the ring buffer.
        start: First voxel of the box.
        shape: Shape of the box, which may wrap around the end of the ring buffer.
    """

    ring: Shape3
    start: Shape3
    shape: Shape3

    @property
    def voxels(self) -> int:
        """Number of voxels of the box."""
        return int(np.prod(self.shape, dtype=np.int64))

    def arguments(self) -> list[NDArray[Any]]:
        """Return the kernel parameters `ring`, `start` and `box`."""
        return [_shape(shape) for shape in (self.ring, self.start, self.shape)]


def cached_kernels(sm: str, cache: PrivateCache | None) -> bytes:
    """Return the compiled kernels, from a cache if possible: compiling takes a second.

    Args:
        sm: Compute capability, such as `"sm_89"`.
        cache: Cache of compiled kernels; None compiles without one.

    Raises:
        EngineError: See `compile_kernels`.
    """
    if cache is None:
        return compile_kernels(sm)
    text = hashlib.sha256((source() + " ".join(OPTIONS)).encode()).hexdigest()
    key = {"source": text, "sm": sm, "compiler": importlib.metadata.version("cuda-bindings")}
    found = cache.find("kernels", key)
    if found is not None:
        return found.read_bytes()
    image = compile_kernels(sm)
    cache.store("kernels", key, lambda path: path.write_bytes(image))
    return image


class Kernels:
    """Compiled kernels loaded on one device; each method queues one launch in a stream."""

    def __init__(self, device: Device, image: bytes) -> None:
        module = device.load(image)
        self._device = device
        self._functions = {name: device.function(module, name) for name in NAMES}

    def scatter(self, planes: Buffer, image: Buffer, box: RingBox, *, stream: Any) -> None:
        """Copy contiguous planes into a box of the ring buffer of the image."""
        self._launch("scatter", box.voxels, [_address(planes), _address(image), *box.arguments()], stream)

    def value_range(
        self, image: Buffer, starts: Buffer, ranges: Buffer, *, count: int, ring: Shape3, window: Shape3,
        stream: Any,
    ) -> None:  # fmt: skip
        """Compute the smallest and largest bit pattern of each window; they are equal for a constant window.

        Args:
            image: Ring buffer of the image.
            starts: (count, 3) int32 start of each window in the ring buffer.
            ranges: (2, count) uint32 output: smallest and largest, initialised with all bits set and with
                zeros.
            count: Number of windows.
            ring: Shape of the ring buffer.
            window: Shape of a window.
            stream: Stream in which the kernel is queued.
        """
        shapes = [_shape(shape) for shape in (ring, window)]
        pointers = [_address(image), _address(starts), _address(ranges), _address(ranges, 4 * count)]
        self._launch("value_range", count * BLOCK, [*pointers, *shapes], stream)

    def crop(self, image: Buffer, window: Buffer, box: RingBox, *, offset: int, stream: Any) -> None:
        """Copy a box of the ring buffer of the image into the window buffer at `offset` bytes."""
        self._launch(
            "crop", box.voxels, [_address(image), _address(window, offset), *box.arguments()], stream
        )

    def accumulate(
        self,
        logits: Buffer,
        box: RingBox,
        *,
        offset: int,
        weights: Buffer,
        channels: Buffer,
        count: int,
        total: Buffer,
        norm: Buffer,
        not_finite: Buffer,
        stream: Any,
    ) -> None:
        """Add the weighted logits of one window to a box of the sums.

        Args:
            logits: Output of the network, (C, X, Y, Z) float32 from `offset` on.
            box: The box of the window in the sums.
            offset: Offset of the logits in bytes.
            weights: (X, Y, Z) float32 blending weights of a window.
            channels: Graph channel of each blended channel, int32.
            count: Number of blended channels.
            total: Sums of weighted logits, `count` ring buffers.
            norm: Sums of weights.
            not_finite: int32 flag, set to 1 if a logit is not finite.
            stream: Stream in which the kernel is queued.
        """
        pointers = [
            _address(logits, offset), *(_address(b) for b in (weights, channels, total, norm, not_finite))
        ]  # fmt: skip
        self._launch("accumulate", box.voxels, [*pointers, *box.arguments(), _one(count, np.int32)], stream)

    def finish_labels(
        self,
        total: Buffer,
        norm: Buffer,
        values: Buffer,
        labels: Buffer,
        box: RingBox,
        *,
        wide: bool,
        count: int,
        stream: Any,
    ) -> None:
        """Convert a box of the sums to labels, and clear the box.

        Args:
            total: Sums of weighted logits, `count` ring buffers.
            norm: Sums of weights.
            values: Label value of each channel, int32.
            labels: (X, Y, Z) output of the box: uint16 if `wide`, else uint8.
            box: The box of the sums.
            wide: Write uint16 labels; otherwise uint8.
            count: Number of channels.
            stream: Stream in which the kernel is queued.
        """
        pointers = [_address(b) for b in (total, norm, values, labels)]
        name = "finish_labels16" if wide else "finish_labels8"
        self._launch(name, box.voxels, [*pointers, *box.arguments(), _one(count, np.int32)], stream)

    def finish_logits(
        self, total: Buffer, norm: Buffer, logits: Buffer, box: RingBox, target: RingBox, *, count: int,
        stream: Any,
    ) -> None:  # fmt: skip
        """Divide a box of the sums by the sums of weights, and clear both.

        Args:
            total: Sums of weighted logits, `count` ring buffers.
            norm: Sums of weights.
            logits: Output, `count` ring buffers; may be `total`, to convert sums to logits in place.
            box: The box of the sums.
            target: The box of `logits`, of the same shape.
            count: Number of channels.
            stream: Stream in which the kernel is queued.
        """
        pointers = [_address(b) for b in (total, norm, logits)]
        where = [*box.arguments(), *target.arguments()[:2]]
        self._launch("finish_logits", box.voxels, [*pointers, *where, _one(count, np.int32)], stream)

    def resample_separable(
        self, logits: Buffer, labels: Buffer, part: RingBox, *, tables: Sequence[Buffer], ring: Shape3,
        order: Sequence[int], wide: bool, count: int, stream: Any,
    ) -> None:  # fmt: skip
        """Label a part of a file grid that has the directions of the network grid.

        Args:
            logits: Finished logits, `count` ring buffers.
            labels: (X, Y, Z) output of the part: uint16 if `wide`, else uint8.
            part: Part of the file grid.
            tables: Offsets of the lower and of the upper neighbour (int64) and weight of the upper neighbour
                (float32) of each file index along x, then y, then z; label value of each channel (int32).
            ring: Shape of a ring buffer of logits.
            order: Axes in the order in which they are interpolated.
            wide: Write uint16 labels; otherwise uint8.
            count: Number of channels.
            stream: Stream in which the kernel is queued.
        """
        shapes = [_shape(s) for s in (ring, part.start, part.shape, part.ring, order)]
        pointers = [_address(b) for b in (logits, *tables, labels)]
        numbers = [_one(n, np.int32) for n in (count, wide)]
        self._launch("resample_separable", part.voxels, [*pointers, *shapes, *numbers], stream)

    def resample_sheared(
        self, logits: Buffer, labels: Buffer, part: RingBox, *, tables: Sequence[Buffer], ring: Shape3,
        grid: Shape3, pad: Shape3, axis: int, first: int, planes: int, wide: bool, count: int, stream: Any,
    ) -> None:  # fmt: skip
        """Label the voxels of a part of any file grid whose upper neighbour lies in given network planes.

        Args:
            logits: Finished logits, `count` ring buffers.
            labels: (X, Y, Z) output of the part: uint16 if `wide`, else uint8.
            part: Part of the file grid.
            tables: Normalised coordinates of the file grid along x, then y, then z (float64); (3, 4) map to
                those of the network grid (float64); label value of each channel (int32).
            ring: Shape of a ring buffer of logits.
            grid: Shape of the network grid.
            pad: Voxels of padding before the network grid.
            axis: Slab axis.
            first: First network plane, on the padded grid.
            planes: Number of network planes.
            wide: Write uint16 labels; otherwise uint8.
            count: Number of channels.
            stream: Stream in which the kernel is queued.
        """
        shapes = [_shape(s) for s in (ring, part.start, part.shape, part.ring, grid, pad)]
        pointers = [_address(b) for b in (logits, *tables, labels)]
        numbers = [_one(n, np.int32) for n in (axis, first, planes, count, wide)]
        self._launch("resample_sheared", part.voxels, [*pointers, *shapes, *numbers], stream)

    def _launch(self, name: str, threads: int, arguments: Sequence[NDArray[Any]], stream: Any) -> None:
        self._device.launch(self._functions[name], threads, arguments, stream)


def _address(buffer: Buffer, offset: int = 0) -> NDArray[Any]:
    return _one(buffer.address + offset, np.uint64)


def _shape(shape: Sequence[int]) -> NDArray[Any]:
    return np.array(shape, dtype=np.int32)


def _one(value: float, dtype: DTypeLike) -> NDArray[Any]:
    return np.array([value], dtype=dtype)
