"""Test that the GPU workspace has exactly the predicted size."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import numpy as np
import pytest

from gcis_runtime import Volume
from gcis_runtime.grids.grid_transform import plan_grid
from gcis_runtime.grids.preprocess import preprocess
from gcis_runtime.grids.resample import GridMap
from gcis_runtime.pipeline import calibration
from gcis_runtime.pipeline.footprint import RequestedOutputs
from gcis_runtime.pipeline.forecast import ExecutionPlan, Sizes, choose_execution
from gcis_runtime.sliding import blend
from gcis_runtime.sliding.blend import kept_outputs
from gcis_runtime.sliding.cuda.blend import GpuBlender
from gcis_runtime.sliding.cuda.kernels import Kernels
from gcis_runtime.sliding.cuda.labeller import GpuLabeller
from gcis_runtime.sliding.cuda.output import NetworkGridOutput
from gcis_runtime.sliding.cuda.workspace import workspace_bytes
from gcis_runtime.sliding.label_sink import LabelSink
from gcis_runtime.sliding.labeller import STAGES, LabelTask
from gcis_runtime.sliding.plan import plan_windows
from gcis_runtime.sliding.schedule import make_schedule
from gcis_runtime.spec import PreprocessSpec, WindowSpec
from gcis_runtime.system.stage_clock import StageClock
from tests.support import fake_cuda
from tests.support.forecasting import RUN, engine_and_sizes
from tests.support.gpu_blending import (
    ROI,
    WEIGHTS,
    Session,
    make_output,
    make_plan,
    plane_source,
)


def allocated(driver, start):
    """Return the bytes on the device and of page-locked memory that were allocated since a call."""
    calls = driver.calls[start:]
    return tuple(sum(a[0] for name, a in calls if name == kind) for kind in ("cuMemAlloc", "cuMemAllocHost"))


@pytest.mark.parametrize("shape", [(31, 44, 20), (9, 60, 5)])
def test_the_gpus_workspace_is_as_large_as_predicted(shape):
    """The forecast is exact for an image without constant windows, except that empty buffers take a byte."""
    schedule = make_schedule(make_plan(shape, axis=1))
    made = make_output(schedule.plan, (0, 1, 2), (1, 2, 3))
    driver = fake_cuda.FakeDriver()
    session = Session(driver, ROI)
    kernels, start = Kernels(session.gpu, b""), len(driver.calls)
    blender = GpuBlender(session, kernels, schedule, WEIGHTS, channels=(0, 1, 2), output=made)
    noise = np.random.default_rng(0).random(schedule.plan.padded, dtype=np.float32)
    list(blender.blocks(plane_source(noise, schedule.plan)))
    window = session.output.bytes // session.batch
    forecast = workspace_bytes(schedule, made, output_bytes=window)
    device, pinned = allocated(driver, start)
    kept = min(kept_outputs(window), len(schedule.plan.starts)) * window
    assert 0 <= device - (forecast.device - kept) <= 8 and 0 <= pinned - forecast.pinned <= 16


@pytest.mark.parametrize("limit", [1, 3 * 4 * int(np.prod(ROI)) * 3, 1 << 27])
@pytest.mark.parametrize("restore", ["smooth", "nearest", "published"])
@pytest.mark.parametrize("channels", [(0,), (0, 1, 2), (0, 1, 2, 0, 1)])
def test_the_gpu_allocates_no_more_than_was_forecast(channels, restore, limit, monkeypatch):
    """All windows are constant and different: the device keeps as many outputs as the limit allows."""
    monkeypatch.setattr(blend, "KEPT_OUTPUT_BYTES", limit)
    steps = np.repeat(np.arange(40, dtype=np.int16) * 50, ROI[2])
    volume = Volume(array=np.broadcast_to(steps, (8, 12, 400)).copy(), affine=np.eye(4))
    spacing = (1.0, 1.0, 1.0)
    image = preprocess(volume, PreprocessSpec(spacing=spacing, intensity_window=(0.0, 4000.0)))
    grid = plan_grid(volume.shape, np.diag([1.0, 1.0, 1.0, 1.0]), PreprocessSpec(spacing=spacing))
    to_file = GridMap(matrix=np.diag([0.5, 0.5, 0.5, 1.0]), shape_in=grid.shape, shape_out=(16, 24, 800))
    transform = replace(image.transform, to_file=to_file)
    plan = make_plan(grid.shape, overlap=0.0)
    values = tuple(range(1, 1 + len(channels)))
    engine, _, _ = engine_and_sizes()
    driver = fake_cuda.FakeDriver()
    session = engine._session = Session(driver, ROI, batch=2)
    calibration.record(engine.key(), msgspec.structs.replace(RUN, device_bytes=1))
    requested = RequestedOutputs(values=values, smooth=restore == "smooth")
    sizes = Sizes(transform=transform, shape=to_file.shape_out, requested=requested)
    _, forecast = choose_execution(engine, sizes, ExecutionPlan(plan=plan, restore=restore), allowed=None)
    labeller, start = GpuLabeller(session, Kernels(session.gpu, b"")), len(driver.calls)
    task = LabelTask(
        image=replace(image, transform=transform), plan=plan, weights=WEIGHTS, padding_value=0.0,
        channels=channels, values=values, restore=restore,
    )  # fmt: skip
    sink = LabelSink(transform=transform, shape=to_file.shape_out, values=values, masks=False)
    count = labeller.label(task, sink, StageClock(*STAGES))
    assert count.reused == 0
    device, _ = allocated(driver, start)
    assert device <= forecast.device_bytes <= device + (1 << 10)


def test_a_forecast_counts_the_kept_output_of_fifty_structures():
    """Outputs of 50 x 96 x 96 x 96 voxels take 177 MB each: one is kept and counted."""
    window = WindowSpec(patch_size=(96, 96, 96))
    schedule = make_schedule(plan_windows((300, 300, 300), window))
    made = NetworkGridOutput(schedule, values=tuple(range(1, 51)), logits=False)
    output_bytes = 50 * 96**3 * 4
    assert kept_outputs(output_bytes) == 1 and kept_outputs(1 << 24) == 8
    plane, new = 300 * 300 * 4, 48
    parts = plane * (96 + new + 96), plane * 96 * 51, 96**3 * 4, output_bytes, 2 * 300 * 300 * 96
    found = workspace_bytes(schedule, made, output_bytes=output_bytes).device
    assert found == pytest.approx(sum(parts), abs=1 << 15)
