"""Call the CUDA driver API for one GPU, and raise errors for its result codes.

`Device` is a thin layer over cuda-python for memory, streams, events, copies, kernels and CUDA graphs. All
GPU code uses it. It makes no decisions, so that tests can replace the driver by a simulation whose streams
execute as late as the recorded events allow.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.engines.gpu.pinned import Pinned
from gcis_runtime.engines.gpu.probe import Gpu
from gcis_runtime.errors import DeviceMemoryError, EngineError

BLOCK = 256
"""Threads per block. All kernels are one-dimensional and limited by memory bandwidth."""
_PARAMETER_BYTES = 16
"""Bytes that hold any kernel parameter: numbers, addresses, and shapes of three int32."""


@dataclass(frozen=True, kw_only=True)
class Buffer:
    """Device memory.

    Attributes:
        address: Device address.
        bytes: Size in bytes.
    """

    address: int
    bytes: int


@dataclass(eq=False)
class Device:
    """A GPU whose primary context this process holds. As a context manager, it frees its resources.

    The context must be current in the calling thread (`activate`). Not thread-safe.

    Attributes:
        info: Name, index and compute capability of the GPU.
        driver: `cuda.bindings.driver` or an object with the same functions.
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
        """Make the device's context current in this thread."""
        if self._context is None:
            raise EngineError(
                "the GPU was closed",
                received="a closed device",
                expected="an open device",
                fix="Open the bundle again.",
            )
        self._call("cuCtxSetCurrent", self._context)

    @property
    def closed(self) -> bool:
        """Whether the device was closed."""
        return self._context is None

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Make the device's context current in this thread, and restore the thread's context afterwards.

        Any thread and the garbage collector may close a session, while that thread uses another GPU.
        """
        self._call("cuCtxPushCurrent", self._context)
        try:
            yield
        finally:
            self._call("cuCtxPopCurrent")

    def free_memory(self) -> int:
        """Return the free device memory in bytes."""
        return int(self._call("cuMemGetInfo")[0])

    # Memory

    def allocate(self, size: int) -> Buffer:
        """Allocate `size` bytes of device memory.

        Raises:
            DeviceMemoryError: The device has too little memory.
        """
        address = int(self._call("cuMemAlloc", size))
        self._made[address] = lambda: self._call("cuMemFree", address)
        return Buffer(address=address, bytes=size)

    def pinned(self, size: int) -> Pinned:
        """Allocate `size` bytes of page-locked host memory.

        Raises:
            DeviceMemoryError: The host has too little memory that can be locked.
        """
        address = int(self._call("cuMemAllocHost", size))
        self._made[address] = lambda: self._call("cuMemFreeHost", address)
        return Pinned.at(address, size)

    def free(self, thing: Any) -> None:
        """Free memory, a stream or an event."""
        self._made.pop(thing.address if isinstance(thing, Buffer | Pinned) else int(thing))()

    # Streams and events

    def stream(self) -> Any:
        """Create a stream that does not synchronize with the default stream."""
        stream = self._call("cuStreamCreate", 1)  # CU_STREAM_NON_BLOCKING
        self._made[int(stream)] = lambda: self._call("cuStreamDestroy", stream)
        return stream

    def event(self) -> Any:
        """Create an event without timing, which is faster."""
        event = self._call("cuEventCreate", 2)  # CU_EVENT_DISABLE_TIMING
        self._made[int(event)] = lambda: self._call("cuEventDestroy", event)
        return event

    def record(self, event: Any, stream: Any) -> None:
        """Record an event after all work that is queued in the stream."""
        self._call("cuEventRecord", event, stream)

    def wait(self, stream: Any, event: Any) -> None:
        """Make a stream wait for an event, without blocking the CPU."""
        self._call("cuStreamWaitEvent", stream, event, 0)

    def synchronize(self, event: Any) -> None:
        """Block the CPU until an event is reached. Errors of earlier asynchronous work are raised here."""
        self._call("cuEventSynchronize", event)

    def finish(self, stream: Any) -> None:
        """Block the CPU until all work in a stream is finished."""
        self._call("cuStreamSynchronize", stream)

    # Work

    def upload(self, target: Buffer, source: int, size: int, stream: Any) -> None:
        """Copy `size` bytes from host address `source` to a buffer."""
        self._call("cuMemcpyHtoDAsync", target.address, source, size, stream)

    def download(self, target: int, source: Buffer, size: int, stream: Any) -> None:
        """Copy `size` bytes from a buffer to host address `target`."""
        self._call("cuMemcpyDtoHAsync", target, source.address, size, stream)

    def copy(self, target: Buffer, source: Buffer, size: int, stream: Any) -> None:
        """Copy `size` bytes from one buffer to another."""
        self._call("cuMemcpyDtoDAsync", target.address, source.address, size, stream)

    def fill(self, buffer: Buffer, byte: int, size: int, stream: Any) -> None:
        """Set the first `size` bytes of a buffer to the value `byte`."""
        self._call("cuMemsetD8Async", buffer.address, byte, size, stream)

    def zero(self, buffer: Buffer, stream: Any) -> None:
        """Set all bytes of a buffer to zero."""
        self.fill(buffer, 0, buffer.bytes, stream)

    def load(self, image: bytes) -> Any:
        """Load a module of compiled kernels."""
        module = self._call("cuModuleLoadData", image)
        self._made[int(module)] = lambda: self._call("cuModuleUnload", module)
        return module

    def function(self, module: Any, name: str) -> Any:
        """Return the kernel with a name in a module."""
        return self._call("cuModuleGetFunction", module, name.encode())

    def launch(self, function: Any, threads: int, arguments: Sequence[NDArray[Any]], stream: Any) -> None:
        """Queue a kernel.

        Args:
            function: The kernel.
            threads: Number of threads; rounded up to whole blocks.
            arguments: One array per parameter, whose bytes (at most 16) are the value of the parameter.
            stream: Stream of the kernel. The driver copies the arguments before this function returns.
        """
        # All in one array: asking NumPy for an address takes longer than copying a parameter.
        values = np.frombuffer(
            b"".join(a.tobytes().ljust(_PARAMETER_BYTES, b"\0") for a in arguments), np.uint8
        )
        pointers = np.arange(len(arguments), dtype=np.uint64) * np.uint64(_PARAMETER_BYTES)
        pointers += np.uint64(values.ctypes.data)
        blocks = -(-threads // BLOCK)
        self._call(
            "cuLaunchKernel", function, blocks, 1, 1, BLOCK, 1, 1, 0, stream, int(pointers.ctypes.data), 0
        )

    def capture(self, stream: Any, work: Callable[[], None]) -> Callable[[], None]:
        """Record the work that `work` queues in a stream as a CUDA graph, which one call launches.

        Args:
            stream: The stream.
            work: Queues the work. Addresses must be the same in every later launch.

        Returns:
            A function that launches the graph in the stream.
        """
        mode = self.driver.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
        self._call("cuStreamBeginCapture", stream, mode)
        try:
            work()
        finally:
            # Also after an error: a stream that is still recording accepts no other work.
            graph = self._call("cuStreamEndCapture", stream)
        try:
            runnable = self._call("cuGraphInstantiate", graph, 0)
        finally:
            self._call("cuGraphDestroy", graph)
        self._made[int(runnable)] = lambda: self._call("cuGraphExecDestroy", runnable)
        return lambda: self._call("cuGraphLaunch", runnable, stream)

    def abandon_capture(self, stream: Any) -> None:
        """End and drop a recording that another library left open in a stream after an error.

        Such a stream cannot be waited for. Must be called in the thread that started the recording.
        """
        if int(self._call("cuStreamIsCapturing", stream)):
            with contextlib.suppress(EngineError):  # the result code repeats the error
                self._call("cuGraphDestroy", self._call("cuStreamEndCapture", stream))

    def close(self) -> None:
        """Free all resources, newest first, and release the context. May be called again, in any thread.

        Work that is still queued ends first, since it may use the resources. After an error the remaining
        resources are freed as well.

        Raises:
            EngineError: The first error.
        """
        if self._context is None:
            return
        with contextlib.ExitStack() as last:
            last.callback(self._release)
            with self.current(), contextlib.ExitStack() as stack:
                while self._made:
                    stack.callback(self._made.pop(next(iter(self._made))))  # called in reverse order
                stack.callback(self._call, "cuCtxSynchronize")

    def _release(self) -> None:
        self._context = None
        self._call("cuDevicePrimaryCtxRelease", self._handle)

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, name: str, *arguments: Any) -> Any:
        """Call a driver function and return its results without the result code.

        Raises:
            DeviceMemoryError: Device memory or page-locked memory is exhausted.
            EngineError: Any other failure; the message contains CUDA's name of the result.
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
            expected="cuda-python >= 13",
            fix="Install it: pip install 'gcis[cuda]'; or use --device cpu.",
        ) from error
