"""Query the CUDA driver for its version and devices.

Creating a TensorRT runtime without a driver ends the interpreter with a segmentation fault. Every session on
a GPU therefore calls `require_gpu` first. libcuda is called directly, so that `gcis-bundle doctor` also works
on machines without the cuda-python package.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gcis_runtime.errors import EngineError
from gcis_runtime.platforms import CUDA_DRIVER

_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_{MAJOR,MINOR}
_ADVICE = {
    3: "the driver is not initialised (is another process resetting the GPU?)",
    100: "the driver found no GPU",
    802: "the GPUs' fabric manager has not started",
    803: "the driver's library and its kernel module have different versions",
    804: "the driver's compatibility library does not support this GPU",
}
"""Meaning of common results of cuInit (CUresult in cuda.h)."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One CUDA device.

    Attributes:
        index: Device index, as in `cuda:1`.
        name: Product name.
        capability: Compute capability (major, minor).
        memory: Device memory in bytes.
    """

    index: int
    name: str
    capability: tuple[int, int]
    memory: int

    @property
    def sm(self) -> str:
        """Compute capability in the notation of compilers, such as `sm_89`."""
        return f"sm_{self.capability[0]}{self.capability[1]}"


@dataclass(frozen=True, kw_only=True)
class Driver:
    """Version and devices of the CUDA driver.

    Attributes:
        version: Highest CUDA version that the driver supports, such as `"13.0"`; None without a driver.
        gpus: Devices in the order of the driver.
        problem: Reason why no GPU can be used; None if a GPU can be used.
    """

    version: str | None = None
    gpus: tuple[Gpu, ...] = ()
    problem: str | None = None


def probe_driver(load: Callable[[str], Any] = ctypes.CDLL) -> Driver:
    """Query the CUDA driver for its version and devices; never raises an error.

    Args:
        load: Loads a shared library by name.
    """
    try:
        library = load(CUDA_DRIVER)
    except OSError:
        return Driver(problem=f"no CUDA driver was found ({CUDA_DRIVER})")
    result = int(library.cuInit(0))
    if result:
        return Driver(problem=_ADVICE.get(result, f"the CUDA driver does not start (error {result})"))
    version, count = ctypes.c_int(), ctypes.c_int()
    if library.cuDriverGetVersion(ctypes.byref(version)) or library.cuDeviceGetCount(ctypes.byref(count)):
        return Driver(problem="the CUDA driver does not respond")
    text = f"{version.value // 1000}.{version.value % 1000 // 10}"
    gpus = tuple(_ask(library, index) for index in range(count.value))
    return Driver(version=text, gpus=gpus, problem=None if gpus else _ADVICE[100])


def require_gpu(device: str) -> Gpu:
    """Return the GPU of a device name such as `cuda` or `cuda:1`.

    Args:
        device: `"cuda"` (the first GPU) or `"cuda:NUMBER"`.

    Raises:
        EngineError: There is no driver or no such device.
    """
    driver = probe_driver()
    if driver.problem is not None:
        raise EngineError(
            "no NVIDIA GPU can be used",
            received=driver.problem,
            expected="a CUDA driver and a GPU",
            fix="Use --device cpu, or install the NVIDIA driver (`gcis-bundle doctor` lists both).",
        )
    match = re.fullmatch(r"cuda(?::(\d+))?", device)
    index = int(match[1] or 0) if match else -1
    if not 0 <= index < len(driver.gpus):
        raise EngineError(
            "there is no such GPU",
            received=device,
            expected=", ".join(f"cuda:{gpu.index} ({gpu.name})" for gpu in driver.gpus),
            fix="Choose one of them with --device.",
        )
    return driver.gpus[index]


def _ask(library: Any, index: int) -> Gpu:
    """Read one device's name, compute capability and memory."""
    handle, name, memory = ctypes.c_int(), ctypes.create_string_buffer(128), ctypes.c_size_t()
    numbers = [ctypes.c_int(), ctypes.c_int()]
    library.cuDeviceGet(ctypes.byref(handle), index)
    library.cuDeviceGetName(name, len(name), handle)
    library.cuDeviceTotalMem_v2(ctypes.byref(memory), handle)
    for number, attribute in zip(numbers, (_MAJOR, _MINOR), strict=True):
        library.cuDeviceGetAttribute(ctypes.byref(number), attribute, handle)
    return Gpu(
        index=index,
        name=name.value.decode(errors="replace"),
        capability=(numbers[0].value, numbers[1].value),
        memory=memory.value,
    )
