"""What a volume will take, said before it starts: windows, time, host and device memory.

Memory is worked out from sizes (`footprint`), the engine's share taken from earlier runs of the bundle on
this machine (`calibration`) or guessed. Time is known only from earlier runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from gcis_runtime.engines.session import DeviceSession
from gcis_runtime.errors import MemoryLimitError
from gcis_runtime.grids.grid_transform import GridTransform
from gcis_runtime.images.files import voxel_bytes
from gcis_runtime.pipeline import calibration
from gcis_runtime.pipeline.calibration import Calibration
from gcis_runtime.pipeline.footprint import Wanted, activations, host_footprint
from gcis_runtime.pipeline.loaded_engine import LoadedEngine
from gcis_runtime.sliding.carry_over import room_for_file
from gcis_runtime.sliding.labeller import Restore
from gcis_runtime.sliding.plan import WindowPlan, turned
from gcis_runtime.sliding.schedule import schedule
from gcis_runtime.spec import Shape3
from gcis_runtime.system.memory import bytes_text, peak_memory_bytes, resident_bytes
from gcis_runtime.text import counted

_FLOAT = 4
_IN_MEMORY = 1 << 30
"""Sums that wait take at most so much memory where no limit is given and a disk has room for them."""
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
        file_bytes: Size of a temporary file in which sums wait; None where they wait in memory.
    """

    windows: int
    seconds: float | None
    host_bytes: int
    device_bytes: int | None
    runs: int
    allowed_bytes: int | None = None
    steps: tuple[str, ...] = ()
    file_bytes: int | None = None

    @property
    def text(self) -> str:
        """One line for people."""
        parts = [counted(self.windows, "window")]
        if self.seconds is not None:
            parts.append(f"about {self.seconds:.1f} s")
        parts.append(f"up to {bytes_text(self.host_bytes)} of memory")
        if self.file_bytes is not None:
            parts.append(f"{bytes_text(self.file_bytes)} in a temporary file")
        if self.device_bytes is not None:
            parts.append(f"{bytes_text(self.device_bytes)} of the GPU's")
        if self.allowed_bytes is not None:
            parts.append(f"{bytes_text(self.allowed_bytes)} allowed")
        return ", ".join(parts) + ("" if self.runs else " (no calibration yet)")


@dataclass(frozen=True, kw_only=True)
class Way:
    """How a volume's windows are laid and its labels restored.

    Attributes:
        plan: Window positions.
        restore: How labels come to the file's grid.
        on_disk: Sums that wait for more windows lie in a temporary file.
    """

    plan: WindowPlan
    restore: Restore
    on_disk: bool = False


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What a forecast is about.

    Attributes:
        transform: The way between the grids.
        shape: The file's grid.
        wanted: What is made.
    """

    transform: GridTransform
    shape: Shape3
    wanted: Wanted


def choose_way(engine: LoadedEngine, sizes: Sizes, way: Way, *, allowed: int | None) -> tuple[Way, Forecast]:
    """Say what a volume will take; where that is more than is allowed, find a way that takes less.

    Without a limit, sums of more than `_IN_MEMORY` wait in a temporary file where a disk has room for it.
    With one, steps are taken in this order: sums that wait in such a file (labels stay the same), windows in
    slabs along the axis that needs least (sums are added in another order, so that labels of voxels whose
    logit is zero but for rounding may change), labels of the nearest voxel in place of interpolated logits.

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
    if allowed is None and _waiting_bytes(sizes, way) > _IN_MEMORY:
        way = replace(way, on_disk=_no_file(engine, sizes, way) is None)
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
        problem = None if way.on_disk else _no_file(engine, sizes, way)
        raise MemoryLimitError(
            "the image needs more memory than is allowed",
            received=f"{bytes_text(forecast.host_bytes)} predicted"
            + (f" after {'; '.join(steps)}" if steps else "")
            + (f"; no temporary file was used: {problem}" if problem else ""),
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

    def host(candidate: Way) -> int:
        return _predict(engine, sizes, candidate, 0, known).host_bytes

    found = []
    in_file = replace(way, on_disk=True)
    if host(in_file) < host(way) and _no_file(engine, sizes, way) is None:
        size = bytes_text(_waiting_bytes(sizes, way))
        way = in_file
        found.append((way, f"sums that wait in a temporary file of {size}"))
    plans = [turned(way.plan, axis) for axis in range(3)]
    best = min(plans, key=lambda plan: host(replace(way, plan=plan)))
    along = replace(way, plan=best)
    found.append((along, f"slabs along {'XYZ'[best.axis]}"))
    if way.restore == "smooth":
        found.append((replace(along, restore="nearest"), "labels restored from the nearest voxel"))
    return found


def _no_file(engine: LoadedEngine, sizes: Sizes, way: Way) -> str | None:
    """Tell why sums cannot wait in a file; None where they can."""
    if isinstance(engine.session, DeviceSession):
        return "sums wait on the GPU"
    return room_for_file(_waiting_bytes(sizes, way))


def _waiting_bytes(sizes: Sizes, way: Way) -> int:
    channels = len(sizes.wanted.values)
    return schedule(way.plan).waiting_bytes(channels)


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
        way.plan,
        sizes.transform,
        sizes.shape,
        wanted,
        graph_channels=manifest.output.shape[1],
        on_disk=way.on_disk,
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
        file_bytes=_waiting_bytes(sizes, way) if way.on_disk else None,
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
    from gcis_runtime.sliding.cuda.labeller import choose_finish  # noqa: PLC0415 (only where a GPU is)
    from gcis_runtime.sliding.cuda.slabs import group_windows  # noqa: PLC0415
    from gcis_runtime.sliding.cuda.workspace import workspace_bytes  # noqa: PLC0415

    logits = wanted.masks or wanted.probabilities
    finish = choose_finish(
        way.plan, sizes.transform, values=wanted.values, smooth=wanted.smooth, logits=logits
    )
    return workspace_bytes(
        way.plan,
        group_windows(way.plan),
        count=finish.count,
        kept=finish.kept,
        piece_bytes=finish.piece_bytes,
    )
