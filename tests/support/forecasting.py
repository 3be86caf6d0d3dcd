"""Provide a plan, sizes and a calibration for tests of forecasts."""

from __future__ import annotations

import numpy as np

from gcis_runtime.grids.grid_transform import plan_grid
from gcis_runtime.pipeline.calibration import Measurement
from gcis_runtime.pipeline.footprint import RequestedOutputs
from gcis_runtime.pipeline.forecast import ExecutionPlan, Sizes
from gcis_runtime.pipeline.loaded_engine import LoadedEngine
from gcis_runtime.sliding.plan import plan_windows
from tests.support.fake_session import ThresholdSession, threshold_bundle

RUN = Measurement(window_seconds=2.0, blend_seconds=0.5, voxel_seconds=1e-6, run_bytes=100)
"""Measurements of one run."""


def engine_and_sizes(*, shape=(120, 64, 90), spacing=None):
    bundle = threshold_bundle(orientation=None, spacing=spacing)
    transform = plan_grid(shape, np.eye(4), bundle.manifest.preprocess)
    plan = plan_windows(transform.shape, bundle.manifest.window)
    sizes = Sizes(transform=transform, shape=shape, requested=RequestedOutputs(values=(1, 2), smooth=True))
    return LoadedEngine(bundle, ThresholdSession()), sizes, ExecutionPlan(plan=plan, restore="smooth")
