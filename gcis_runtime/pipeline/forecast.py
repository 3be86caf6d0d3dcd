"""Forecast windows, time, host memory and device memory of a volume before it is segmented.

Memory is computed from sizes (`footprint`). The memory of the engine is taken from earlier runs of the bundle
on this machine (`calibration`), or estimated. Time is known only from earlier runs.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from gcis_runtime.engines.session import DeviceSession
from gcis_runtime.errors import MemoryLimitError
from gcis_runtime.grids.grid_transform import GridTransform
from gcis_runtime.pipeline import calibration
from gcis_runtime.pipeline.calibration import Calibration
from gcis_runtime.pipeline.footprint import RequestedOutputs, activations, host_footprint
from gcis_runtime.pipeline.loaded_engine import LoadedEngine
from gcis_runtime.pipeline.memory_limit import INTERPRETER_BYTES, memory_limit, more_memory
from gcis_runtime.sliding.carry_over import room_for_file
from gcis_runtime.sliding.labeller import Restore
from gcis_runtime.sliding.plan import WindowPlan, with_slab_axis
from gcis_runtime.sliding.schedule import make_schedule
from gcis_runtime.spec import Shape3
from gcis_runtime.system.memory import bytes_text, peak_memory_bytes, resident_bytes
from gcis_runtime.text import counted

if TYPE_CHECKING:
    from gcis_runtime.sliding.cuda.workspace import WorkspaceBytes

_IN_MEMORY = 1 << 30
"""Without a memory limit, larger unfinished sums are carried over in a temporary file if a disk has space."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """Expected time and memory for segmenting a volume.

    Attributes:
        windows: Number of windows.
        seconds: Seconds without reading and writing if every window is computed; None before the first run.
        host_bytes: Largest resident memory of the process.
        device_bytes: Device memory of the engine and of blending; None on the CPU.
        runs: Number of earlier runs that calibrate the forecast.
        allowed_bytes: Memory limit (`max_memory`); None without a limit.
        steps: Changes made to stay below the limit, one line per step.
        file_bytes: Size of the temporary file for unfinished sums; None if they are in memory.
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
        """Forecast in one line for users."""
        parts = [counted(self.windows, "window")]
        if self.seconds is not None:
            parts.append(f"about {self.seconds:.1f} s")
        parts.append(f"up to {bytes_text(self.host_bytes)} of memory")
        if self.file_bytes is not None:
            parts.append(f"{bytes_text(self.file_bytes)} in a temporary file")
        if self.device_bytes is not None:
            parts.append(f"{bytes_text(self.device_bytes)} of GPU memory")
        if self.allowed_bytes is not None:
            parts.append(f"{bytes_text(self.allowed_bytes)} allowed")
        return ", ".join(parts) + ("" if self.runs else " (no calibration yet)")


@dataclass(frozen=True, kw_only=True)
class ExecutionPlan:
    """Choices for segmenting a volume that affect its memory.

    Attributes:
        plan: The window plan.
        restore: Mapping of labels to the native grid.
        on_disk: Whether unfinished sums are carried over in a temporary file.
    """

    plan: WindowPlan
    restore: Restore
    on_disk: bool = False


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Grids and requested outputs of a volume.

    Attributes:
        transform: Transform between the file grid and the network grid.
        shape: Shape of the file grid (X, Y, Z).
        requested: The requested outputs.
    """

    transform: GridTransform
    shape: Shape3
    requested: RequestedOutputs


def choose_execution(
    engine: LoadedEngine, sizes: Sizes, execution: ExecutionPlan, *, allowed: int | None
) -> tuple[ExecutionPlan, Forecast]:
    """Forecast a volume, and reduce its memory step by step if the forecast exceeds the limit.

    Without a requested limit, the memory that the machine and the control groups of the process have left is
    the limit, and unfinished sums of more than `_IN_MEMORY` bytes are carried over in a temporary file if a
    disk has space. With a limit, the steps are, in this order: carry unfinished sums over in a temporary file
    (labels stay the same); order windows in slabs along the axis that needs the least memory (sums are added
    in another order, so that labels may change where a logit is zero up to rounding); take the label of the
    nearest voxel instead of interpolating logits.

    Args:
        engine: The loaded engine.
        sizes: Grids and requested outputs.
        execution: The requested choices.
        allowed: Limit of the resident memory in bytes; None for that of the machine and its container.

    Returns:
        The choices to run with, and their forecast.

    Raises:
        MemoryLimitError: All choices exceed the limit.
    """
    resident = resident_bytes() or peak_memory_bytes() or INTERPRETER_BYTES
    known = calibration.find(engine.key())
    if allowed is None and _carry_over_bytes(sizes, execution) > _IN_MEMORY:
        execution = replace(execution, on_disk=_no_file(engine, sizes, execution) is None)
    forecast = _predict(engine, sizes, execution, resident, known)
    limit = memory_limit(allowed, resident)
    if limit is None:
        return execution, forecast
    steps: list[str] = []
    for candidate, step in _smaller(engine, sizes, execution, known):
        if forecast.host_bytes <= limit:
            break
        less = _predict(engine, sizes, candidate, resident, known)
        if less.host_bytes < forecast.host_bytes:
            steps.append(
                f"{step}: {bytes_text(less.host_bytes)} instead of {bytes_text(forecast.host_bytes)},"
                f" {bytes_text(limit)} are {'available' if allowed is None else 'allowed'}"
            )
            execution, forecast = candidate, less
    if forecast.host_bytes > limit:
        problem = None if execution.on_disk else _no_file(engine, sizes, execution)
        raise MemoryLimitError(
            f"the image needs more memory than is {'available' if allowed is None else 'allowed'}",
            received=f"{bytes_text(forecast.host_bytes)} predicted"
            + (f" after {'; '.join(steps)}" if steps else "")
            + (f"; no temporary file was used: {problem}" if problem else ""),
            expected=f"at most {bytes_text(limit)}",
            fix=f"{more_memory(allowed, forecast.host_bytes)}, or fewer structures with --prompt.",
        )
    return execution, replace(forecast, allowed_bytes=allowed, steps=tuple(steps))


def _smaller(
    engine: LoadedEngine, sizes: Sizes, execution: ExecutionPlan, known: Calibration | None
) -> list[tuple[ExecutionPlan, str]]:
    """Return choices that need less memory, each with a description; later ones change more."""

    def host(candidate: ExecutionPlan) -> int:
        return _predict(engine, sizes, candidate, 0, known).host_bytes

    found = []
    in_file = replace(execution, on_disk=True)
    if host(in_file) < host(execution) and _no_file(engine, sizes, execution) is None:
        size = bytes_text(_carry_over_bytes(sizes, execution))
        execution = in_file
        found.append((execution, f"unfinished sums in a temporary file of {size}"))
    plans = [with_slab_axis(execution.plan, axis) for axis in range(3)]
    best = min(plans, key=lambda plan: host(replace(execution, plan=plan)))
    along = replace(execution, plan=best)
    found.append((along, f"slabs along {'XYZ'[best.axis]}"))
    if execution.restore == "smooth":
        found.append((replace(along, restore="nearest"), "labels of the nearest voxel"))
    return found


def _no_file(engine: LoadedEngine, sizes: Sizes, execution: ExecutionPlan) -> str | None:
    """Return why a temporary file cannot hold unfinished sums, or None if it can."""
    if isinstance(engine.session, DeviceSession):
        return "unfinished sums are in GPU memory"
    return room_for_file(_carry_over_bytes(sizes, execution))


def _carry_over_bytes(sizes: Sizes, execution: ExecutionPlan) -> int:
    """Return the bytes of the unfinished sums that are carried over."""
    return make_schedule(execution.plan).carry_over_bytes(len(sizes.requested.values))


def _predict(
    engine: LoadedEngine, sizes: Sizes, execution: ExecutionPlan, resident: int, known: Calibration | None
) -> Forecast:
    """Return the forecast for `resident` bytes before the run and the calibration of earlier runs."""
    requested = replace(sizes.requested, smooth=execution.restore == "smooth")
    manifest = engine.bundle.manifest
    seconds, windows = None, len(execution.plan.starts)
    if known is not None:
        seconds = windows * (known.window_seconds + known.blend_seconds)
        seconds += float(np.prod(sizes.shape)) * known.voxel_seconds
    footprint = host_footprint(
        execution.plan,
        sizes.transform,
        sizes.shape,
        requested,
        graph_channels=manifest.output.shape[1],
        on_disk=execution.on_disk,
    )
    host, device = footprint.total, None
    if isinstance(engine.session, DeviceSession):
        workspace = _workspace(engine.session, sizes, execution, requested)
        host += workspace.pinned - footprint.sums - footprint.outputs
        device = workspace.device + _engine_on_device(engine, known)
    first_runs = 0
    if device is None and engine.run_bytes is None:
        first_runs = max(known.run_bytes, 8 << 20) if known is not None else _guess(engine)
    return Forecast(
        windows=windows,
        seconds=seconds,
        host_bytes=resident + first_runs + max(host, footprint.afterwards),
        device_bytes=device,
        runs=0 if known is None else known.runs,
        file_bytes=_carry_over_bytes(sizes, execution) if execution.on_disk else None,
    )


def _guess(engine: LoadedEngine) -> int:
    """Return the estimated memory of the engine's first runs, in bytes."""
    return activations(
        engine.bundle.manifest, weights=engine.graph_bytes, engine=engine.info.name, batch=engine.batch
    )


def _engine_on_device(engine: LoadedEngine, known: Calibration | None) -> int:
    """Return the device memory of the engine in bytes: measured, or estimated."""
    if known is not None and known.device_bytes:
        return known.device_bytes
    return 2 * engine.graph_bytes + _guess(engine)


def _workspace(
    session: DeviceSession, sizes: Sizes, execution: ExecutionPlan, requested: RequestedOutputs
) -> WorkspaceBytes:
    """Return the memory for blending on the GPU of a session."""
    from gcis_runtime.sliding.cuda.labeller import choose_output  # noqa: PLC0415 (only on a GPU)
    from gcis_runtime.sliding.cuda.workspace import workspace_bytes  # noqa: PLC0415

    schedule = make_schedule(execution.plan)
    output = choose_output(
        schedule,
        sizes.transform,
        values=requested.values,
        smooth=requested.smooth,
        logits=requested.masks or requested.probabilities,
    )
    return workspace_bytes(schedule, output, output_bytes=session.output.bytes // session.batch)
