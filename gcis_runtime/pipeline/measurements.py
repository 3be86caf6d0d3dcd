"""Compare measured time and memory with the forecast, and store them as calibration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gcis_runtime.engines.session import DeviceSession
from gcis_runtime.pipeline import calibration
from gcis_runtime.pipeline.calibration import Measurement
from gcis_runtime.pipeline.forecast import Forecast
from gcis_runtime.pipeline.loaded_engine import LoadedEngine
from gcis_runtime.sliding.blend import WindowCount
from gcis_runtime.system.memory import peak_memory_bytes


def record_calibration(
    engine: LoadedEngine, seconds: Mapping[str, float], *, voxels: int, count: WindowCount
) -> None:
    """Store the measurements of a successful run as calibration, if it computed any window.

    Args:
        engine: The engine that ran.
        seconds: Seconds per stage.
        voxels: Number of voxels of the file.
        count: Number of windows.
    """
    computed = count.total - count.reused
    if computed <= 0:
        return
    calibration.record(
        engine.key(),
        Measurement(
            window_seconds=seconds["network"] / computed,
            blend_seconds=seconds["blend"] / count.total,
            voxel_seconds=(seconds["preprocess"] + seconds["restore"]) / voxels,
            run_bytes=engine.run_bytes or 0,
            device_bytes=engine.device_bytes or 0,
        ),
    )


def device_peak(engine: LoadedEngine) -> int | None:
    """Return the measured device memory in bytes of the engine and its last volume; None on the CPU."""
    taken, least = engine.device_bytes, engine.labeller.least_free
    session = engine.session
    if taken is None or least is None or not isinstance(session, DeviceSession):
        return None
    return taken + max(0, session.gpu.free_memory() - least)


def forecast_report(forecast: Forecast, seconds: float, device_bytes: int | None) -> dict[str, Any]:
    """Return a forecast and the measurements of the run, ready for JSON.

    The measured host memory is the peak of the process so far: an earlier, larger volume may have caused it.

    Args:
        forecast: Forecast of the run.
        seconds: Measured seconds.
        device_bytes: Measured device memory; None on the CPU.
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
