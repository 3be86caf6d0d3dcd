"""A CUDA driver that runs on the host: as late or early as events allow, one stream ahead of others, mixed.

Device memory is host memory full of NaN; copies and kernels wait in their stream until something forces them
(or chance lets them run), so a missing event shows as a wrong number. Kernels are `kernels.cu` compiled
for the host, or the same formulas in numpy where there is no C++ compiler.
"""

from __future__ import annotations

import ctypes
import functools
import inspect
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from gcis_runtime.engines.gpu.probe import Driver, Gpu
from gcis_runtime.sliding.cuda import kernels as sources

Kernel = Callable[[int, int, int], None]
"""Blocks, threads of a block, address of the array of pointers to the arguments."""

SHIM = r"""
#include <cmath>
#include <cstring>
#include <utility>
#define __device__
#define __global__
struct Index { unsigned x; };
static Index blockIdx, blockDim, threadIdx;
static unsigned __float_as_uint(float f) { unsigned u; std::memcpy(&u, &f, 4); return u; }
static unsigned min(unsigned a, unsigned b) { return a < b ? a : b; }
static unsigned max(unsigned a, unsigned b) { return a > b ? a : b; }
static void atomicMin(unsigned *p, unsigned v) { *p = min(*p, v); }
static void atomicMax(unsigned *p, unsigned v) { *p = max(*p, v); }
"""
RUNNER = r"""
template <typename... A, std::size_t... I>
static void run(void (*kernel)(A...), unsigned blocks, unsigned threads, void **a, std::index_sequence<I...>)
{
    blockDim.x = threads;
    for (blockIdx.x = 0; blockIdx.x < blocks; ++blockIdx.x)
        for (threadIdx.x = 0; threadIdx.x < threads; ++threadIdx.x)
            kernel(*static_cast<A *>(a[I])...);
}
template <typename... A> static void start(void (*kernel)(A...), unsigned blocks, unsigned threads, void **a)
{
    run(kernel, blocks, threads, a, std::index_sequence_for<A...>());
}
"""


def compile_for_host(folder: Path) -> dict[str, Kernel] | None:
    """Compile `kernels.cu` with the host's C++ compiler; None where there is none."""
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return None
    entries = [
        f'extern "C" void host_{name}(unsigned b, unsigned t, void **a) {{ start({name}, b, t, a); }}\n'
        for name in sources.NAMES
    ]
    source, library = folder / "kernels.cpp", folder / "kernels.so"
    source.write_text(SHIM + sources.source() + RUNNER + "".join(entries))
    flags = [
        "-O2",
        "-std=c++17",
        "-ffp-contract=off",
        "-shared",
        "-fPIC",
        "-Wall",
        "-Werror",
        "-Wno-unused-function",
    ]
    subprocess.run([compiler, *flags, str(source), "-o", str(library)], check=True)
    loaded = ctypes.CDLL(str(library))

    def call(name: str, blocks: int, threads: int, pointers: int) -> None:
        getattr(loaded, f"host_{name}")(
            ctypes.c_uint(blocks), ctypes.c_uint(threads), ctypes.c_void_p(pointers)
        )

    return {name: functools.partial(call, name) for name in sources.NAMES}


# The kernels' formulas in numpy.


def _at(address: int, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_char * size).from_address(address), dtype=dtype).reshape(shape)


class _Arguments:
    def __init__(self, pointers: int) -> None:
        self._pointers, self._next = pointers, 0

    def _take(self, kind: Any, count: int = 1) -> Any:
        where = ctypes.c_uint64.from_address(self._pointers + 8 * self._next).value
        self._next += 1
        return _at(where, (count,), kind)

    def addresses(self, count: int) -> list[int]:
        return [int(self._take(np.uint64)[0]) for _ in range(count)]

    def shape(self) -> tuple[int, ...]:
        return tuple(int(n) for n in self._take(np.int32, 3))

    def number(self) -> int:
        return int(self._take(np.int32)[0])


def _place(start: Any, box: Any, buffer: Any) -> Any:
    return np.ix_(*((s + np.arange(n)) % length for s, n, length in zip(start, box, buffer, strict=True)))


def _scatter(_blocks: int, _threads: int, pointers: int) -> None:
    a = _Arguments(pointers)
    rows, image = a.addresses(2)
    buffer, start, box = a.shape(), a.shape(), a.shape()
    _at(image, buffer, np.float32)[_place(start, box, buffer)] = _at(rows, box, np.float32)


def _value_range(blocks: int, _threads: int, pointers: int) -> None:
    a = _Arguments(pointers)
    image, starts, least, most = a.addresses(4)
    buffer, box = a.shape(), a.shape()
    for i, start in enumerate(_at(starts, (blocks, 3), np.int32)):
        values = _at(image, buffer, np.uint32)[_place(start, box, buffer)]
        low, high = _at(least, (blocks,), np.uint32), _at(most, (blocks,), np.uint32)
        low[i], high[i] = min(low[i], values.min()), max(high[i], values.max())


def _crop(_blocks: int, _threads: int, pointers: int) -> None:
    a = _Arguments(pointers)
    image, window = a.addresses(2)
    buffer, start, box = a.shape(), a.shape(), a.shape()
    _at(window, box, np.float32)[...] = _at(image, buffer, np.float32)[_place(start, box, buffer)]


def _accumulate(_blocks: int, _threads: int, pointers: int) -> None:
    a = _Arguments(pointers)
    logits, weights, channels, total, norm, bad = a.addresses(6)
    buffer, start, box, count = a.shape(), a.shape(), a.shape(), a.number()
    used = _at(channels, (count,), np.int32)
    answers = _at(logits, (int(used.max()) + 1, *box), np.float32)
    weight, place = _at(weights, box, np.float32), _place(start, box, buffer)
    for channel, sums in zip(used, _at(total, (count, *buffer), np.float32), strict=True):
        if not np.isfinite(answers[channel]).all():
            _at(bad, (1,), np.int32)[0] = 1
        sums[place] += answers[channel] * weight
    _at(norm, buffer, np.float32)[place] += weight


def _finished_logits(total: int, norm: int, where: tuple[Any, Any, Any], count: int) -> np.ndarray:
    buffer, start, box = where
    place, sums = _place(start, box, buffer), _at(total, (count, *buffer), np.float32)
    weight = _at(norm, buffer, np.float32)
    part, covered = np.stack([channel[place] for channel in sums]), weight[place] > 0
    logits = np.divide(part, weight[place], out=np.zeros_like(part), where=covered)
    for channel in sums:
        channel[place] = 0
    weight[place] = 0
    return logits


def _finish_labels(dtype: Any, _blocks: int, _threads: int, pointers: int) -> None:
    a = _Arguments(pointers)
    total, norm, values, labels = a.addresses(4)
    buffer, start, box, count = a.shape(), a.shape(), a.shape(), a.number()
    logits = _finished_logits(total, norm, (buffer, start, box), count)
    table = _at(values, (len(logits),), np.int32)
    best = logits.argmax(axis=0)
    _at(labels, box, dtype)[...] = np.where(logits.max(axis=0) > 0, table[best], 0)


def _finish_logits(_blocks: int, _threads: int, pointers: int) -> None:
    a = _Arguments(pointers)
    total, norm, out = a.addresses(3)
    buffer, start, box, room, target, count = *(a.shape() for _ in range(5)), a.number()
    logits = _finished_logits(total, norm, (buffer, start, box), count)
    for channel, ring in zip(logits, _at(out, (count, *room), np.float32), strict=True):
        ring[_place(target, box, room)] = channel


def _best(channels: Iterator[np.ndarray], values: int, count: int) -> np.ndarray:
    """Label of the largest positive logit, the first of equals."""
    logits = np.stack([np.zeros_like(first := next(channels)), first, *channels])
    return np.append(0, _at(values, (count,), np.int32))[logits.argmax(axis=0)]


def _resample_separable(_blocks: int, _threads: int, pointers: int) -> None:
    a = _Arguments(pointers)
    logits, low, high, share, values, labels = a.addresses(6)
    ring, start, box, file, order = (a.shape() for _ in range(5))
    count, wide, first = a.number(), a.number(), np.cumsum([0, *file])
    rows = [slice(f + s, f + s + n) for f, s, n in zip(first, start, box, strict=False)]
    below, above = (
        np.array(np.broadcast_arrays(*np.ix_(*(_at(t, (sum(file),), np.int64)[r] for r in rows))))
        for t in (low, high)
    )
    shares = np.ix_(*(_at(share, (sum(file),), np.float32)[r] for r in rows))

    def logit(flat: np.ndarray, axes: tuple[int, ...], offset: Any) -> np.ndarray:
        if not axes:
            return flat[offset]
        *rest, last = axes
        before, after = (logit(flat, tuple(rest), offset + side[last]) for side in (below, above))
        return (after - before) * shares[last] + before

    flat = _at(logits, (count, int(np.prod(ring))), np.float32)
    _at(labels, box, np.uint16 if wide else np.uint8)[...] = _best(
        (logit(f, order, 0) for f in flat), values, count
    )


def _resample_sheared(_blocks: int, _threads: int, pointers: int) -> None:
    a = _Arguments(pointers)
    logits, unit, matrix, values, labels = a.addresses(5)
    ring, start, box, file, grid, pad = (a.shape() for _ in range(6))
    axis, first, rows, count, wide = (a.number() for _ in range(5))
    places = np.split(_at(unit, (sum(file),), np.float64), np.cumsum(file)[:2])
    x, y, z = np.ix_(*(p[s : s + n] for p, s, n in zip(places, start, box, strict=True)))
    at = [
        np.clip(((z * m[2] + y * m[1] + x * m[0] + m[3] + 1.0) * n - 1.0) / 2.0, 0, n - 1)
        for m, n in zip(_at(matrix, (3, 4), np.float64), grid, strict=True)
    ]
    low = [np.floor(c).astype(int) for c in at]
    share = [(c - i).astype(np.float32) for c, i in zip(at, low, strict=True)]
    high = [np.minimum(i + 1, n - 1) for i, n in zip(low, grid, strict=True)]
    mine = (high[axis] + pad[axis] >= first) & (high[axis] + pad[axis] < first + rows)

    def logit(values: np.ndarray) -> np.ndarray:
        total = np.zeros(box, np.float32)
        for corner in np.ndindex(2, 2, 2):
            part = np.ones(box, np.float32)
            for s, b in zip(share, corner, strict=True):
                part = part * (s if b else 1 - s)
            corners = zip(low, high, corner, pad, ring, strict=True)
            where = [((h if b else i) + p) % n for i, h, b, p, n in corners]
            total += part * values[tuple(where)]
        return np.where(mine, total, 0)

    flat = _at(logits, (count, *ring), np.float32)
    _at(labels, box, np.uint16 if wide else np.uint8)[...] = _best((logit(f) for f in flat), values, count)


IN_NUMPY: dict[str, Kernel] = {
    "scatter": _scatter,
    "value_range": _value_range,
    "crop": _crop,
    "accumulate": _accumulate,
    "finish_labels8": functools.partial(_finish_labels, np.uint8),
    "finish_labels16": functools.partial(_finish_labels, np.uint16),
    "finish_logits": _finish_logits,
    "resample_separable": _resample_separable,
    "resample_sheared": _resample_sheared,
}

LAYOUT = {"scatter": (2, 3, 0), "value_range": (4, 2, 0), "crop": (2, 3, 0), "accumulate": (6, 3, 1)}
"""Pointers, shapes and numbers that each kernel takes, in this order."""
LAYOUT |= {"finish_labels8": (4, 3, 1), "finish_labels16": (4, 3, 1), "finish_logits": (3, 5, 1)}
LAYOUT |= {"resample_separable": (6, 5, 2), "resample_sheared": (5, 6, 5)}


class Result(int):
    """A result code with CUDA's name."""

    name = "CUDA_SUCCESS"

    @classmethod
    def of(cls, name: str) -> Result:
        made = cls({"CUDA_SUCCESS": 0, "CUDA_ERROR_OUT_OF_MEMORY": 2}.get(name, 999))
        made.name = name
        return made


OK = Result.of("CUDA_SUCCESS")


class Stream:
    def __init__(self) -> None:
        self.queue: list[tuple[str, Any]] = []
        self.capture: list[tuple[str, Any]] | None = None


class FakeDriver:
    """The part of `cuda.bindings.driver` that `Device` uses.

    Attributes:
        calls: Name and arguments of every call.
        alive: What was made and not freed, by handle.
        fail: Result name to answer with, by call name.
        room: Bytes of device memory that can still be allocated.
    """

    CUstreamCaptureMode = SimpleNamespace(CU_STREAM_CAPTURE_MODE_THREAD_LOCAL=1)

    def __init__(
        self, order: str = "late", *, kernels: dict[str, Kernel] | None = None, seed: int = 0
    ) -> None:
        self.calls: list[tuple[str, tuple[Any, ...]]] = []
        self.alive: dict[int, Any] = {}
        self.fail: dict[str, str] = {}
        self.room = 1 << 40
        self.order, self._random = order, random.Random(seed)
        self._kernels = kernels or IN_NUMPY
        self._recorded: dict[int, int] = {}  # event: how often it was recorded
        self._happened: dict[int, int] = {}  # event: how many of these have happened
        self._handles = iter(range(1001, 10**9))

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if not name.startswith("cu"):
            return found

        def call(*arguments: Any) -> Any:
            self.calls.append((name, arguments))
            check_signature(name, arguments)
            if name in self.fail:
                return (Result.of(self.fail[name]),)
            if name == "cuMemAlloc":
                if arguments[0] > self.room:
                    return (Result.of("CUDA_ERROR_OUT_OF_MEMORY"),)
                self.room -= arguments[0]
            answer = found(*arguments)
            self._let_run()
            return (OK, *answer) if isinstance(answer, tuple) else (OK,) if answer is None else (OK, answer)

        return call

    def names(self) -> list[str]:
        return [name for name, _ in self.calls]

    # Devices and contexts

    def cuInit(self, flags: int) -> None: ...  # noqa: N802

    def cuDeviceGet(self, index: int) -> int:  # noqa: N802
        return index

    def cuDevicePrimaryCtxRetain(self, device: int) -> str:  # noqa: N802
        return "context"

    def cuDevicePrimaryCtxRelease(self, device: int) -> None: ...  # noqa: N802

    def cuCtxSetCurrent(self, context: str) -> None: ...  # noqa: N802

    def cuMemGetInfo(self) -> tuple[int, int]:  # noqa: N802
        return 3 << 30, 8 << 30

    # Memory

    def _new_memory(self, size: int) -> int:
        memory = np.full(size, 0xFF, dtype=np.uint8)  # float32 NaN
        self.alive[memory.ctypes.data] = memory
        return memory.ctypes.data

    cuMemAlloc = cuMemAllocHost = _new_memory  # noqa: N815

    def cuMemFree(self, address: int) -> None:  # noqa: N802
        for stream in self._streams():
            self._run(stream)  # the real one waits too
        del self.alive[address]

    cuMemFreeHost = cuMemFree  # noqa: N815

    # Streams and events

    def cuStreamCreate(self, flags: int) -> int:  # noqa: N802
        return self._made(Stream())

    def cuEventCreate(self, flags: int) -> int:  # noqa: N802
        return self._made("event")

    def _destroy(self, handle: int) -> None:
        thing = self.alive.pop(handle)
        if isinstance(thing, Stream):
            self._run(thing)

    cuStreamDestroy = cuEventDestroy = cuModuleUnload = cuGraphDestroy = cuGraphExecDestroy = _destroy  # noqa: N815

    def cuEventRecord(self, event: int, stream: int) -> None:  # noqa: N802
        self._recorded[event] = self._recorded.get(event, 0) + 1
        self.alive[stream].queue.append(("record", (event, self._recorded[event])))

    def cuStreamWaitEvent(self, stream: int, event: int, flags: int) -> None:  # noqa: N802
        self.alive[stream].queue.append(("wait", (event, self._recorded.get(event, 0))))

    def cuEventSynchronize(self, event: int) -> None:  # noqa: N802
        self._until(event, self._recorded.get(event, 0))

    def cuStreamSynchronize(self, stream: int) -> None:  # noqa: N802
        self._run(self.alive[stream])

    # Work

    def cuMemcpyHtoDAsync(self, target: int, source: int, size: int, stream: int) -> None:  # noqa: N802
        self.queue(stream, lambda: ctypes.memmove(target, source, size))

    cuMemcpyDtoHAsync = cuMemcpyDtoDAsync = cuMemcpyHtoDAsync  # noqa: N815

    def cuMemsetD8Async(self, target: int, byte: int, size: int, stream: int) -> None:  # noqa: N802
        self.queue(stream, lambda: ctypes.memset(target, byte, size))

    def cuModuleLoadData(self, image: bytes) -> int:  # noqa: N802
        return self._made("module")

    def cuModuleGetFunction(self, module: int, name: bytes) -> str:  # noqa: N802
        return name.decode()

    def cuLaunchKernel(  # noqa: N802, PLR0917 (the real one)
        self, function: str, bx: int, by: int, bz: int, tx: int, ty: int, tz: int, shared: int, stream: int,
        pointers: int, extra: int,
    ) -> None:  # fmt: skip
        # As the driver does, copy the arguments now: the caller's memory may go.
        addresses, shapes, numbers = LAYOUT[function]
        sizes = [8] * addresses + [12] * shapes + [4] * numbers
        count = len(sizes)
        passed = _at(pointers, (count,), np.uint64).tolist()
        values = [ctypes.string_at(p, size) for p, size in zip(passed, sizes, strict=True)]
        kept = [ctypes.create_string_buffer(value, len(value)) for value in values]
        table = (ctypes.c_void_p * count)(*(ctypes.addressof(k) for k in kept))
        self.queue(
            stream, lambda kept=kept: self._kernels[function](bx, tx, ctypes.addressof(table))
        )  # fmt: skip

    def cuStreamBeginCapture(self, stream: int, mode: int) -> None:  # noqa: N802
        self.alive[stream].capture = []

    def cuStreamEndCapture(self, stream: int) -> int:  # noqa: N802
        captured, self.alive[stream].capture = self.alive[stream].capture, None
        return self._made(captured)

    def cuGraphInstantiate(self, graph: int, flags: int) -> int:  # noqa: N802
        return self._made(self.alive[graph])

    def cuGraphLaunch(self, runnable: int, stream: int) -> None:  # noqa: N802
        self.alive[stream].queue.extend(self.alive[runnable])

    def queue(self, stream: int, work: Callable[[], Any]) -> None:
        """Put any work into a stream, as a library on the GPU does."""
        target = self.alive[stream]
        (target.queue if target.capture is None else target.capture).append(("work", work))

    # Execution

    def _made(self, thing: Any) -> int:
        handle = next(self._handles)
        self.alive[handle] = thing
        return handle

    def _streams(self) -> list[Stream]:
        return [thing for thing in self.alive.values() if isinstance(thing, Stream)]

    def _let_run(self) -> None:
        for number, stream in enumerate(self._streams()):
            ahead = {"first ahead": number == 0, "others ahead": number > 0, "early": True}
            if ahead.get(self.order, False):
                self._run(stream)
            elif self.order == "mixed" and self._random.random() < 0.3:
                for _ in range(self._random.randrange(4)):
                    self._step(stream)

    def _run(self, stream: Stream) -> None:
        while stream.queue:
            self._step(stream)

    def _step(self, stream: Stream) -> None:
        if not stream.queue:
            return
        kind, what = stream.queue.pop(0)
        if kind == "work":
            what()
        elif kind == "record":
            self._happened[what[0]] = max(what[1], self._happened.get(what[0], 0))
        else:
            self._until(*what)

    def _until(self, event: int, number: int) -> None:
        """Run the stream that recorded an event until it happened."""
        while self._happened.get(event, 0) < number:
            stream = next(s for s in self._streams() if ("record", (event, number)) in s.queue)
            self._step(stream)


def check_signature(name: str, arguments: tuple[Any, ...]) -> None:
    """Refuse a call that the real `cuda.bindings.driver` would not take."""
    try:
        from cuda.bindings import driver
    except ImportError:
        return
    inspect.signature(getattr(driver, name)).bind(*arguments)


def gpu(capability: tuple[int, int] = (8, 9), *, name: str = "Test GPU", index: int = 0) -> Gpu:
    return Gpu(index=index, name=name, capability=capability, memory=8 << 30)


def driver_with(*gpus: Gpu) -> Callable[[], Driver]:
    """Return a probe that finds these GPUs."""
    return lambda: Driver(version="13.0", gpus=gpus)
