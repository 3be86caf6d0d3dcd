"""Measure the free memory of a GPU."""

from __future__ import annotations

from gcis_runtime.errors import EngineError


def free_device_memory(device: str) -> int | None:
    """Return the free memory of a device in bytes.

    Args:
        device: `"cpu"`, `"cuda"` or `"cuda:N"`.

    Returns:
        None for the CPU, and for a GPU that cannot be reached: opening a session then reports the cause.
    """
    if device == "cpu":
        return None
    from gcis_runtime.engines.gpu.device import Device  # noqa: PLC0415 (needs cuda-python)
    from gcis_runtime.engines.gpu.probe import require_gpu  # noqa: PLC0415

    try:
        with Device(require_gpu(device)) as gpu:
            return gpu.free_memory()
    except EngineError:
        return None
