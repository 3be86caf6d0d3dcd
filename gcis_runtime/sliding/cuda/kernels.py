"""Our kernels: compiled for the GPU at hand by NVRTC, launched with typed arguments."""

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
    "spread", "extent", "crop", "accumulate", "finish_labels8", "finish_labels16", "finish_logits",
    "restore_axes", "restore_sheared",
)  # fmt: skip
OPTIONS = ("--fmad=false", "--std=c++17", "--device-as-default-execution-space")
"""No fused multiply-add: sums and interpolated logits have to equal numpy's."""


def source() -> str:
    """Return the kernels' CUDA C++ source."""
    return resources.files("gcis_runtime.sliding.cuda").joinpath("kernels.cu").read_text(encoding="utf-8")


def compile_kernels(sm: str, *, nvrtc: Any = None) -> bytes:
    """Compile the kernels to machine code.

    Args:
        sm: Compute capability, such as `"sm_89"`.
        nvrtc: `cuda.bindings.nvrtc`, or something that answers like it.

    Returns:
        A cubin; where this NVRTC is older than the GPU, PTX of the newest architecture that it knows, which
        the driver finishes.

    Raises:
        EngineError: NVRTC is missing or refuses.
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
    """Return the architectures that NVRTC compiles for.

    Raises:
        EngineError: Its library is not there.
    """
    try:
        count = _nvrtc(nvrtc, "nvrtcGetNumSupportedArchs")
        return list(_nvrtc(nvrtc, "nvrtcGetSupportedArchs"))[:count]
    except (ImportError, OSError, RuntimeError) as error:  # how cuda-python reports a missing library
        raise EngineError(
            "running on a GPU needs NVRTC, CUDA's run-time compiler",
            received=str(error).splitlines()[0][:200],
            fix="Install it: pip install 'gcis[cuda]'; or use --device cpu.",
        ) from error


def _nvrtc(nvrtc: Any, name: str, *arguments: Any) -> Any:
    """Call NVRTC and return its answer without the result code."""
    result, *answer = getattr(nvrtc, name)(*arguments)
    if int(result):
        raise EngineError("NVRTC failed", received=f"{getattr(result, 'name', result)} from {name}")
    return answer[0] if answer else None


@dataclass(frozen=True, kw_only=True)
class Box:
    """A part of a ring buffer, all in voxels (X, Y, Z).

    Attributes:
        buffer: Shape of the whole buffer.
        start: First voxel of the part.
        shape: Its shape; it may run over the end of the ring's axis and go on at the beginning.
    """

    buffer: Shape3
    start: Shape3
    shape: Shape3

    @property
    def voxels(self) -> int:
        """Number of voxels in the part."""
        return int(np.prod(self.shape, dtype=np.int64))

    def arguments(self) -> list[NDArray[Any]]:
        """Return the kernels' parameters `buffer`, `start`, `box`."""
        return [_shape(shape) for shape in (self.buffer, self.start, self.shape)]


def cached_kernels(sm: str, cache: PrivateCache | None) -> bytes:
    """Compile the kernels, or take them from an earlier compilation: it costs a second.

    Args:
        sm: Compute capability, such as `"sm_89"`.
        cache: Where they are kept; None compiles.

    Raises:
        EngineError: As `compile_kernels`.
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
    """The compiled kernels on one device; each call queues one launch on a stream."""

    def __init__(self, device: Device, image: bytes) -> None:
        module = device.load(image)
        self._device = device
        self._functions = {name: device.function(module, name) for name in NAMES}

    def spread(self, rows: Buffer, image: Buffer, box: Box, *, stream: Any) -> None:
        """Put rows that lie in one piece into `box` of the image's ring."""
        self._launch("spread", box.voxels, [_address(rows), _address(image), *box.arguments()], stream)

    def extent(
        self, image: Buffer, starts: Buffer, extents: Buffer, *, count: int, ring: Shape3, window: Shape3,
        stream: Any,
    ) -> None:  # fmt: skip
        """Find the smallest and the largest bit pattern of `count` windows: equal for a window of one value.

        Args:
            image: The image's ring.
            starts: (count, 3) int32, where each window begins in the ring.
            extents: (2, count) uint32: smallest, largest; begins as all ones and zeros.
            count: Number of windows.
            ring: Shape of the ring.
            window: Shape of a window.
            stream: Where it is queued.
        """
        shapes = [_shape(shape) for shape in (ring, window)]
        pointers = [_address(image), _address(starts), _address(extents), _address(extents, 4 * count)]
        self._launch("extent", count * BLOCK, [*pointers, *shapes], stream)

    def crop(self, image: Buffer, window: Buffer, box: Box, *, offset: int, stream: Any) -> None:
        """Cut `box` out of the image's ring into the window buffer at `offset` bytes."""
        self._launch(
            "crop", box.voxels, [_address(image), _address(window, offset), *box.arguments()], stream
        )

    def accumulate(
        self,
        logits: Buffer,
        box: Box,
        *,
        offset: int,
        weights: Buffer,
        channels: Buffer,
        count: int,
        total: Buffer,
        norm: Buffer,
        bad: Buffer,
        stream: Any,
    ) -> None:
        """Add one window's weighted logits, which begin at `offset` bytes, to `box` of the sums."""
        pointers = [
            _address(logits, offset), *(_address(b) for b in (weights, channels, total, norm, bad))
        ]  # fmt: skip
        self._launch("accumulate", box.voxels, [*pointers, *box.arguments(), _one(count, np.int32)], stream)

    def finish_labels(
        self,
        total: Buffer,
        norm: Buffer,
        values: Buffer,
        labels: Buffer,
        box: Box,
        *,
        wide: bool,
        count: int,
        stream: Any,
    ) -> None:
        """Turn `box` of the sums into labels (uint16 when `wide`, else uint8) and clear it."""
        pointers = [_address(b) for b in (total, norm, values, labels)]
        name = "finish_labels16" if wide else "finish_labels8"
        self._launch(name, box.voxels, [*pointers, *box.arguments(), _one(count, np.int32)], stream)

    def finish_logits(
        self, total: Buffer, norm: Buffer, logits: Buffer, box: Box, target: Box, *, count: int, stream: Any
    ) -> None:
        """Divide `box` of the sums by the weights and clear both.

        Args:
            total: The sums.
            norm: The weights.
            logits: Where logits go, `count` rings; may be `total`: sums become logits where they are.
            box: Part of the sums.
            target: The same part of `logits`.
            count: Channels.
            stream: Where it is queued.
        """
        pointers = [_address(b) for b in (total, norm, logits)]
        where = [*box.arguments(), *target.arguments()[:2]]
        self._launch("finish_logits", box.voxels, [*pointers, *where, _one(count, np.int32)], stream)

    def restore_axes(
        self, logits: Buffer, labels: Buffer, part: Box, *, tables: Sequence[Buffer], ring: Shape3,
        order: Sequence[int], wide: bool, count: int, stream: Any,
    ) -> None:  # fmt: skip
        """Label part of a file's grid that shares its directions with the network's.

        Args:
            logits: `count` rings of finished logits.
            labels: (X, Y, Z) of the part, uint16 when `wide`, else uint8.
            part: Which part of the file's grid.
            tables: Offset of the lower and upper logit (int64) and distance from the lower (float32) of each
                voxel along x, then y, then z; label value of each channel (int32).
            ring: Shape of a ring of logits.
            order: Axes in the order in which they are interpolated.
            wide: Labels above 255.
            count: Channels.
            stream: Where it is queued.
        """
        shapes = [_shape(s) for s in (ring, part.start, part.shape, part.buffer, order)]
        pointers = [_address(b) for b in (logits, *tables, labels)]
        numbers = [_one(n, np.int32) for n in (count, wide)]
        self._launch("restore_axes", part.voxels, [*pointers, *shapes, *numbers], stream)

    def restore_sheared(
        self, logits: Buffer, labels: Buffer, part: Box, *, tables: Sequence[Buffer], ring: Shape3,
        grid: Shape3, pad: Shape3, axis: int, first: int, rows: int, wide: bool, count: int, stream: Any,
    ) -> None:  # fmt: skip
        """Label part of a file's grid of other directions: voxels whose upper neighbour is one of some rows.

        Args:
            logits: `count` rings of finished logits.
            labels: (X, Y, Z) of the part, uint16 when `wide`, else uint8.
            part: Which part of the file's grid.
            tables: Places along x, then y, then z of the file's grid, whose edges are -1 and 1 (float64); the
                way from there to the network's, (3, 4) float64; label value of each channel (int32).
            ring: Shape of a ring of logits.
            grid: Shape of the network's grid.
            pad: Voxels of padding before it.
            axis: Slab axis.
            first: First of the rows, on the padded grid.
            rows: How many there are.
            wide: Labels above 255.
            count: Channels.
            stream: Where it is queued.
        """
        shapes = [_shape(s) for s in (ring, part.start, part.shape, part.buffer, grid, pad)]
        pointers = [_address(b) for b in (logits, *tables, labels)]
        numbers = [_one(n, np.int32) for n in (axis, first, rows, count, wide)]
        self._launch("restore_sheared", part.voxels, [*pointers, *shapes, *numbers], stream)

    def _launch(self, name: str, threads: int, arguments: Sequence[NDArray[Any]], stream: Any) -> None:
        self._device.launch(self._functions[name], threads, arguments, stream)


def _address(buffer: Buffer, offset: int = 0) -> NDArray[Any]:
    return _one(buffer.address + offset, np.uint64)


def _shape(shape: Sequence[int]) -> NDArray[Any]:
    return np.array(shape, dtype=np.int32)


def _one(value: float, dtype: DTypeLike) -> NDArray[Any]:
    return np.array([value], dtype=dtype)
