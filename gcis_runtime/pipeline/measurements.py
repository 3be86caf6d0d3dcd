"""What a run took, beside what was forecast, and kept for later forecasts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gcis_runtime.engines.session import DeviceSession
from gcis_runtime.pipeline import calibration
from gcis_runtime.pipeline.calibration import Measured
from gcis_runtime.pipeline.forecast import Forecast
from gcis_runtime.pipeline.loaded_engine import LoadedEngine
from gcis_runtime.sliding.blend import WindowCount
from gcis_runtime.system.memory import peak_memory_bytes


def remember(engine: LoadedEngine, seconds: Mapping[str, float], *, voxels: int, count: WindowCount) -> None:
    """Let a run that ended well count for later forecasts, if it computed any window.

    Args:
        engine: What computed.
        seconds: Time of each stage.
        voxels: Voxels of the file.
        count: Windows.
    """
    computed = count.total - count.reused
    if computed <= 0:
        return
    calibration.keep(
        engine.key(),
        Measured(
            window_seconds=seconds["network"] / computed,
            blend_seconds=seconds["blend"] / count.total,
            voxel_seconds=(seconds["preprocess"] + seconds["restore"]) / voxels,
            run_bytes=engine.run_bytes or 0,
            device_bytes=engine.device_bytes or 0,
        ),
    )


def device_peak(engine: LoadedEngine) -> int | None:
    """Return the device memory that the last volume took with its engine, as measured; None on the CPU."""
    taken, least = engine.device_bytes, engine.labeller.least_free
    session = engine.session
    if taken is None or least is None or not isinstance(session, DeviceSession):
        return None
    return taken + max(0, session.gpu.free_memory() - least)


def measured(forecast: Forecast, seconds: float, device_bytes: int | None) -> dict[str, Any]:
    """Return a forecast beside what was then measured, ready for JSON.

    The host memory that was measured is the process's peak so far: an earlier, larger volume may have set it.
    """
    return {
        "windows": forecast.windows,
        "seconds": None if forecast.seconds is None else round(forecast.seconds, 3),
        "host_bytes": forecast.host_bytes,
        "device_bytes": forecast.device_bytes,
        "file_bytes": forecast.file_bytes,
        "earlier_runs": forecast.runs,
        "allowed_bytes": forecast.allowed_bytes,
        "measured": {
            "seconds": round(seconds, 3),
            "host_bytes": peak_memory_bytes(),
            "device_bytes": device_bytes,
        },
    }
