"""Simulate a CUDA driver on the host that reorders work as far as streams and events allow.

Device memory is host memory that is initially NaN. Copies and kernels stay queued in their stream until an
event or a synchronization requires them, or until the chosen order lets them run. A missing event therefore
shows as a wrong number. Kernels are `kernels.cu` compiled for the host (`host_kernels`), or the same formulas
in NumPy (`numpy_kernels`) where there is no C++ compiler.
"""

from __future__ import annotations

import ctypes
import inspect
import random
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np

from gcis_runtime.engines.gpu.probe import Driver, Gpu
from tests.support.numpy_kernels import IN_NUMPY, LAYOUT, Kernel, array_at

_WITHOUT_CONTEXT = {
    "cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuDevicePrimaryCtxRelease", "cuCtxSetCurrent",
    "cuCtxPushCurrent",
}  # fmt: skip
"""Functions that a thread may call before it has a current context."""
_NOT_WHILE_RECORDING = {
    "cuStreamSynchronize",
    "cuCtxSynchronize",
    "cuMemAlloc",
    "cuMemAllocHost",
    "cuMemFree",
}
"""Functions that fail while a stream records a CUDA graph."""


class Result(int):
    """Result code with CUDA's name."""

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
        alive: Objects that were created and not freed, by handle.
        fail: Name of the result to return, by name of the call.
        room: Bytes of device memory that can still be allocated.
        aborts: What would have ended the process: CUDA calls that are not permitted where they were made.
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
        self.aborts: list[str] = []
        self._threads = threading.local()

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if not name.startswith("cu"):
            return found

        def call(*arguments: Any) -> Any:
            self.calls.append((name, arguments))
            check_signature(name, arguments)
            if name not in _WITHOUT_CONTEXT and not self.contexts[-1:]:
                return (Result.of("CUDA_ERROR_INVALID_CONTEXT"),)
            if name in self.fail:
                return (Result.of(self.fail[name]),)
            if name in _NOT_WHILE_RECORDING and any(s.capture is not None for s in self._streams()):
                return (Result.of("CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED"),)
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
        return f"context {device}"

    def cuDevicePrimaryCtxRelease(self, device: int) -> None: ...  # noqa: N802

    @property
    def contexts(self) -> list[str]:
        """Stack of contexts of the calling thread; the last one is current."""
        if not hasattr(self._threads, "contexts"):
            self._threads.contexts = []
        stack: list[str] = self._threads.contexts
        return stack

    def cuCtxSetCurrent(self, context: str) -> None:  # noqa: N802
        self.contexts[-1:] = [context]

    def cuCtxPushCurrent(self, context: str) -> None:  # noqa: N802
        self.contexts.append(context)

    def cuCtxPopCurrent(self) -> str:  # noqa: N802
        return self.contexts.pop()

    def cuCtxSynchronize(self) -> None:  # noqa: N802
        for stream in self._streams():
            self._run(stream)

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
        passed = array_at(pointers, (count,), np.uint64).tolist()
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

    def cuStreamIsCapturing(self, stream: int) -> int:  # noqa: N802
        return int(self.alive[stream].capture is not None)

    def cuGraphInstantiate(self, graph: int, flags: int) -> int:  # noqa: N802
        return self._made(self.alive[graph])

    def cuGraphLaunch(self, runnable: int, stream: int) -> None:  # noqa: N802
        self.alive[stream].queue.extend(self.alive[runnable])

    def queue(self, stream: int, work: Callable[[], Any]) -> None:
        """Queue any work in a stream, as a library on the GPU does."""
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
        """Run the stream that recorded an event until the event is reached."""
        while self._happened.get(event, 0) < number:
            stream = next(s for s in self._streams() if ("record", (event, number)) in s.queue)
            self._step(stream)


def check_signature(name: str, arguments: tuple[Any, ...]) -> None:
    """Raise an error for a call that the real `cuda.bindings.driver` would reject."""
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
