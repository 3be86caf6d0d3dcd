"""One GPU through the CUDA driver API: a thin layer over cuda-python that turns result codes into errors.

All that gCIS does on a GPU goes through `Device`: memory, streams, events, copies, kernels, graphs. It holds
no policy, so that a fake driver can stand below it: the tests run every caller on a simulated device whose
streams execute as late as the recorded events allow.
"""

from __future__ import annotations

import ctypes
import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from gcis_runtime.engines.gpu.probe import Gpu
from gcis_runtime.errors import DeviceMemoryError, EngineError

BLOCK = 256
"""Threads of a block: all kernels are one-dimensional and bound by memory."""


@dataclass(frozen=True, kw_only=True)
class Buffer:
    """Device memory.

    Attributes:
        address: Device address.
        bytes: Its size.
    """

    address: int
    bytes: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Pinned:
    """Host memory that the GPU copies to and from while the CPU goes on.

    Attributes:
        address: Host address.
        array: The memory as bytes, (size,) uint8.
    """

    address: int
    array: NDArray[np.uint8]

    def view(self, shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
        """Return the beginning of the memory as an array of a shape and type."""
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        return self.array[:size].view(dtype).reshape(tuple(shape))


@dataclass(eq=False)
class Device:
    """A GPU whose primary context this process holds; a context manager that frees what was made here.

    Its context must be current in the thread that calls (`activate`). Not for several threads at once.

    Attributes:
        info: Which GPU it is.
        driver: `cuda.bindings.driver`, or something that answers like it.
    """

    info: Gpu
    driver: Any = None
    _made: dict[int, Callable[[], None]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.driver = self.driver or import_bindings("driver")
        self._call("cuInit", 0)
        self._handle = self._call("cuDeviceGet", self.info.index)
        self._context: Any = self._call("cuDevicePrimaryCtxRetain", self._handle)
        self.activate()

    def activate(self) -> None:
        """Make the device's context the current one of this thread."""
        if self._context is None:
            raise EngineError("the GPU was closed", fix="Open the bundle again.")
        self._call("cuCtxSetCurrent", self._context)

    def free_memory(self) -> int:
        """Return the bytes of device memory that are free."""
        return int(self._call("cuMemGetInfo")[0])

    # Memory

    def allocate(self, size: int) -> Buffer:
        """Allocate device memory.

        Raises:
            DeviceMemoryError: There is not enough.
        """
        address = int(self._call("cuMemAlloc", size))
        self._made[address] = lambda: self._call("cuMemFree", address)
        return Buffer(address=address, bytes=size)

    def pinned(self, size: int) -> Pinned:
        """Allocate page-locked host memory.

        Raises:
            DeviceMemoryError: There is not enough.
        """
        address = int(self._call("cuMemAllocHost", size))
        self._made[address] = lambda: self._call("cuMemFreeHost", address)
        return Pinned(address=address, array=_host_bytes(address, size))

    def free(self, thing: Any) -> None:
        """Free memory, a stream or an event before the device is closed."""
        self._made.pop(thing.address if isinstance(thing, Buffer | Pinned) else int(thing))()

    # Order

    def stream(self) -> Any:
        """Make a stream that does not wait for the default one."""
        stream = self._call("cuStreamCreate", 1)  # CU_STREAM_NON_BLOCKING
        self._made[int(stream)] = lambda: self._call("cuStreamDestroy", stream)
        return stream

    def event(self) -> Any:
        """Make an event without timing, which is faster."""
        event = self._call("cuEventCreate", 2)  # CU_EVENT_DISABLE_TIMING
        self._made[int(event)] = lambda: self._call("cuEventDestroy", event)
        return event

    def record(self, event: Any, stream: Any) -> None:
        """Let an event stand for all that the stream holds now."""
        self._call("cuEventRecord", event, stream)

    def wait(self, stream: Any, event: Any) -> None:
        """Let a stream wait for an event; the CPU goes on."""
        self._call("cuStreamWaitEvent", stream, event, 0)

    def synchronize(self, event: Any) -> None:
        """Let the CPU wait for an event; errors of earlier work on the device come out here."""
        self._call("cuEventSynchronize", event)

    def finish(self, stream: Any) -> None:
        """Let the CPU wait for a stream."""
        self._call("cuStreamSynchronize", stream)

    # Work

    def upload(self, target: Buffer, source: int, size: int, stream: Any) -> None:
        """Copy `size` bytes from host address `source` to a buffer."""
        self._call("cuMemcpyHtoDAsync", target.address, source, size, stream)

    def download(self, target: int, source: Buffer, size: int, stream: Any) -> None:
        """Copy `size` bytes from a buffer to host address `target`."""
        self._call("cuMemcpyDtoHAsync", target, source.address, size, stream)

    def copy(self, target: Buffer, source: Buffer, size: int, stream: Any) -> None:
        """Copy `size` bytes from a buffer to another."""
        self._call("cuMemcpyDtoDAsync", target.address, source.address, size, stream)

    def fill(self, buffer: Buffer, byte: int, size: int, stream: Any) -> None:
        """Set the first `size` bytes of a buffer to one value."""
        self._call("cuMemsetD8Async", buffer.address, byte, size, stream)

    def zero(self, buffer: Buffer, stream: Any) -> None:
        """Clear a buffer."""
        self.fill(buffer, 0, buffer.bytes, stream)

    def load(self, image: bytes) -> Any:
        """Load compiled kernels."""
        module = self._call("cuModuleLoadData", image)
        self._made[int(module)] = lambda: self._call("cuModuleUnload", module)
        return module

    def function(self, module: Any, name: str) -> Any:
        """Return a kernel of a module."""
        return self._call("cuModuleGetFunction", module, name.encode())

    def launch(self, function: Any, threads: int, arguments: Sequence[NDArray[Any]], stream: Any) -> None:
        """Start a kernel.

        Args:
            function: The kernel.
            threads: Threads that it needs; rounded up to whole blocks.
            arguments: One array for each parameter: its bytes are the parameter's.
            stream: Where it is queued. The driver copies the arguments before this returns.
        """
        pointers = np.array([argument.ctypes.data for argument in arguments], dtype=np.uint64)
        blocks = -(-threads // BLOCK)
        self._call(
            "cuLaunchKernel", function, blocks, 1, 1, BLOCK, 1, 1, 0, stream, int(pointers.ctypes.data), 0
        )

    def capture(self, stream: Any, work: Callable[[], None]) -> Callable[[], None]:
        """Record what `work` puts into a stream as a CUDA graph, which starts it all with one call.

        Args:
            stream: The stream.
            work: Puts something into it; addresses must be those of every later run.

        Returns:
            A function that puts the graph into the stream.
        """
        mode = self.driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("cuStreamBeginCapture", stream, mode)
        try:
            work()
        finally:
            # Ended even when `work` failed: a stream that still records takes nothing else.
            graph = self._call("cuStreamEndCapture", stream)
        try:
            runnable = self._call("cuGraphInstantiate", graph, 0)
        finally:
            self._call("cuGraphDestroy", graph)
        self._made[int(runnable)] = lambda: self._call("cuGraphExecDestroy", runnable)
        return lambda: self._call("cuGraphLaunch", runnable, stream)

    def close(self) -> None:
        """Free what was made here, newest first, and give the context back. May be called again."""
        if self._context is None:
            return
        self.activate()
        while self._made:
            self._made.popitem()[1]()
        self._context = None
        self._call("cuDevicePrimaryCtxRelease", self._handle)

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call the driver and return its answer without the result code.

        Raises:
            DeviceMemoryError: The device's or the page-locked memory is used up.
            EngineError: Any other failure, named as CUDA names it.
        """
        result, *answer = getattr(self.driver, name)(*arguments)
        if int(result):
            code = getattr(result, "name", str(result))
            kind = DeviceMemoryError if code.endswith("OUT_OF_MEMORY") else EngineError
            raise kind(
                "the GPU is out of memory" if kind is DeviceMemoryError else "the GPU failed",
                received=f"{code} from {name}",
                fix="Use a smaller window batch, or --device cpu."
                if kind is DeviceMemoryError
                else "Use --device cpu; `gcis-bundle doctor` shows the driver.",
            )
        return answer[0] if len(answer) == 1 else tuple(answer) or None


def import_bindings(name: str) -> Any:
    """Import `cuda.bindings.NAME`.

    Raises:
        EngineError: cuda-python is not installed.
    """
    try:
        return importlib.import_module(f"cuda.bindings.{name}")
    except ImportError as error:
        raise EngineError(
            "running on a GPU needs the cuda-python package",
            received=str(error),
            fix="Install it: pip install 'gcis[cuda]'; or use --device cpu.",
        ) from error


def _host_bytes(address: int, size: int) -> NDArray[np.uint8]:
    """Return host memory at an address as an array, without owning it."""
    memory = (ctypes.c_uint8 * size).from_address(address)
    return np.ctypeslib.as_array(memory)
