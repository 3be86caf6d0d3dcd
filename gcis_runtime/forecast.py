"""What a volume will take, said before it starts: windows, time, host and device memory.

Memory is worked out from sizes (`footprint`), the engine's share taken from earlier runs of the bundle on
this machine (`calibration`) or guessed. Time is known only from earlier runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from gcis_runtime import calibration
from gcis_runtime.blend import WindowCount
from gcis_runtime.calibration import Calibration, Measured
from gcis_runtime.errors import MemoryLimitError
from gcis_runtime.footprint import Wanted, activations, host_footprint
from gcis_runtime.formats import voxel_bytes
from gcis_runtime.geometry import GridTrace
from gcis_runtime.labelling import Restore
from gcis_runtime.loaded import LoadedEngine
from gcis_runtime.sessions import DeviceSession
from gcis_runtime.sizes import bytes_text, peak_memory_bytes, resident_bytes
from gcis_runtime.spec import Shape3
from gcis_runtime.windows import WindowPlan, turned

_FLOAT = 4
_INTERPRETER = 160 << 20
"""Python with numpy and an engine's libraries, where the system does not say what is resident."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a volume is expected to take.

    Attributes:
        windows: Windows in all.
        seconds: Time without reading and writing if every window is computed; None before a first run.
        host_bytes: Memory that the process will have resident at most while it segments this volume.
        device_bytes: Device memory of the engine and its blending; None on the CPU.
        runs: Earlier runs that it rests on; 0: sizes alone.
        allowed_bytes: What `max_memory` allows; None without.
        steps: What was given up to stay below it, one line a step.
    """

    windows: int
    seconds: float | None
    host_bytes: int
    device_bytes: int | None
    runs: int
    allowed_bytes: int | None = None
    steps: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """One line for people."""
        parts = [f"{self.windows} windows"]
        if self.seconds is not None:
            parts.append(f"about {self.seconds:.1f} s")
        parts.append(f"up to {bytes_text(self.host_bytes)} of memory")
        if self.device_bytes is not None:
            parts.append(f"{bytes_text(self.device_bytes)} of the GPU's")
        if self.allowed_bytes is not None:
            parts.append(f"{bytes_text(self.allowed_bytes)} allowed")
        return ", ".join(parts) + ("" if self.runs else " (no calibration yet)")


@dataclass(frozen=True, kw_only=True)
class Way:
    """How a volume's windows are laid and its labels restored."""

    plan: WindowPlan
    restore: Restore


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What a forecast is about.

    Attributes:
        trace: The way between the grids.
        shape: The file's grid.
        wanted: What is made.
    """

    trace: GridTrace
    shape: Shape3
    wanted: Wanted


def choose_way(engine: LoadedEngine, sizes: Sizes, way: Way, *, allowed: int | None) -> tuple[Way, Forecast]:
    """Say what a volume will take; where that is more than is allowed, find a way that takes less.

    Steps, in this order: windows in slabs along the axis that needs least (sums are added in another order,
    so that labels of voxels whose margin is zero but for rounding may change), then labels of the nearest
    voxel in place of interpolated margins.

    Args:
        engine: What will compute.
        sizes: What the forecast is about.
        way: What is wanted.
        allowed: Most memory that may be resident, bytes.

    Raises:
        MemoryLimitError: Every way takes more.
    """
    resident = resident_bytes() or peak_memory_bytes() or _INTERPRETER
    known = calibration.find(engine.key())
    forecast = _predict(engine, sizes, way, resident, known)
    if allowed is None:
        return way, forecast
    steps: list[str] = []
    for candidate, step in _smaller(engine, sizes, way, known):
        if forecast.host_bytes <= allowed:
            break
        less = _predict(engine, sizes, candidate, resident, known)
        if less.host_bytes < forecast.host_bytes:
            steps.append(
                f"{step}: {bytes_text(less.host_bytes)} instead of {bytes_text(forecast.host_bytes)},"
                f" {bytes_text(allowed)} are allowed"
            )
            way, forecast = candidate, less
    if forecast.host_bytes > allowed:
        raise MemoryLimitError(
            "the image needs more memory than is allowed",
            received=f"{bytes_text(forecast.host_bytes)} predicted"
            + (f" after {'; '.join(steps)}" if steps else ""),
            expected=f"at most {bytes_text(allowed)}",
            fix=f"Allow --max-memory {(forecast.host_bytes >> 20) + 1}M, or fewer structures with --prompt.",
        )
    return way, replace(forecast, allowed_bytes=allowed, steps=tuple(steps))


def check_image(path: Path, allowed: int | None) -> None:
    """Refuse a file whose voxels alone would take more memory than is allowed, before they are read.

    Raises:
        MemoryLimitError: They would.
        ImageError: The file cannot be read.
    """
    if allowed is None:
        return
    needs = voxel_bytes(path) + (resident_bytes() or _INTERPRETER)
    if needs > allowed:
        raise MemoryLimitError(
            f"{path} needs more memory than is allowed",
            received=f"{bytes_text(needs)} with its voxels and the engine",
            expected=f"at most {bytes_text(allowed)}",
            fix="Allow more with --max-memory.",
        )


def _smaller(
    engine: LoadedEngine, sizes: Sizes, way: Way, known: Calibration | None
) -> list[tuple[Way, str]]:
    """Return ways that take less, each with what is given up; later ones give up more."""
    plans = [turned(way.plan, axis) for axis in range(3)]
    best = min(plans, key=lambda plan: _predict(engine, sizes, replace(way, plan=plan), 0, known).host_bytes)
    along = replace(way, plan=best)
    found = [(along, f"slabs along {'XYZ'[best.axis]}")]
    if way.restore == "smooth":
        found.append((replace(along, restore="nearest"), "labels restored from the nearest voxel"))
    return found


def _predict(
    engine: LoadedEngine, sizes: Sizes, way: Way, resident: int, known: Calibration | None
) -> Forecast:
    """Work out a forecast from the bytes that are resident now and what earlier runs measured."""
    wanted = replace(sizes.wanted, smooth=way.restore == "smooth")
    manifest = engine.bundle.manifest
    seconds, windows = None, len(way.plan.starts)
    if known is not None:
        seconds = windows * (known.window_seconds + known.blend_seconds)
        seconds += float(np.prod(sizes.shape)) * known.voxel_seconds
    footprint = host_footprint(
        way.plan, sizes.trace, sizes.shape, wanted, graph_channels=manifest.output.shape[1]
    )
    host, device = footprint.total, None
    if isinstance(engine.session, DeviceSession):
        on_device, pinned = _on_device(sizes, way, wanted)
        host += pinned - footprint.sums - footprint.answers
        device = on_device + _engine_on_device(engine, known)
    elif engine.run_bytes is None:
        host += max(known.run_bytes, 8 << 20) if known is not None else _guess(engine)
    return Forecast(
        windows=windows,
        seconds=seconds,
        host_bytes=resident + host,
        device_bytes=device,
        runs=0 if known is None else known.runs,
    )


def _guess(engine: LoadedEngine) -> int:
    return activations(
        engine.bundle.manifest, weights=engine.graph_bytes, engine=engine.info.name, batch=engine.batch
    )


def _engine_on_device(engine: LoadedEngine, known: Calibration | None) -> int:
    if known is not None and known.device_bytes:
        return known.device_bytes
    return 2 * engine.graph_bytes + _guess(engine)


def _on_device(sizes: Sizes, way: Way, wanted: Wanted) -> tuple[int, int]:
    """Return the bytes of blending on the device and, page-locked, on the host."""
    from gcis_runtime.cuda.labeller import choose_finish  # noqa: PLC0415 (only where a GPU is)
    from gcis_runtime.cuda.slabs import group_windows  # noqa: PLC0415
    from gcis_runtime.cuda.workspace import workspace_bytes  # noqa: PLC0415

    margins = wanted.masks or wanted.probabilities
    finish = choose_finish(way.plan, sizes.trace, values=wanted.values, smooth=wanted.smooth, margins=margins)
    return workspace_bytes(
        way.plan,
        group_windows(way.plan),
        count=finish.count,
        kept=finish.kept,
        piece_bytes=finish.piece_bytes,
    )


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
    taken, least = engine.device_bytes, getattr(engine.labeller, "least_free", None)
    session = engine.session
    if taken is None or least is None or not isinstance(session, DeviceSession):
        return None
    return taken + max(0, session.gpu.free_memory() - int(least))


def measured(forecast: Forecast, seconds: float, device_bytes: int | None) -> dict[str, Any]:
    """Return a forecast beside what was then measured, ready for JSON.

    The host memory that was measured is the process's peak so far: an earlier, larger volume may have set it.
    """
    return {
        "windows": forecast.windows,
        "seconds": None if forecast.seconds is None else round(forecast.seconds, 3),
        "host_bytes": forecast.host_bytes,
        "device_bytes": forecast.device_bytes,
        "earlier_runs": forecast.runs,
        "allowed_bytes": forecast.allowed_bytes,
        "measured": {
            "seconds": round(seconds, 3),
            "host_bytes": peak_memory_bytes(),
            "device_bytes": device_bytes,
        },
    }
