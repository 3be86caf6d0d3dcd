"""The GPU workspace has exactly the predicted size."""

from __future__ import annotations

import pytest

from gcis_runtime.sliding.cuda.slabs import group_windows
from gcis_runtime.sliding.cuda.workspace import Workspace, workspace_bytes
from tests.support import fake_cuda
from tests.support.gpu_blending import ROI, Session, make_plan


@pytest.mark.parametrize("shape", [(31, 44, 20), (9, 60, 5)])
def test_the_gpus_workspace_is_as_large_as_predicted(shape):
    driver = fake_cuda.FakeDriver()
    device = Session(driver, ROI).gpu
    plan = make_plan(shape, axis=1)
    groups = group_windows(plan)
    before = len(driver.calls)
    Workspace(device, plan, groups, count=3, kept=1, piece_bytes=1000)
    calls = driver.calls[before:]
    on_device = sum(arguments[0] for name, arguments in calls if name == "cuMemAlloc")
    pinned = sum(arguments[0] for name, arguments in calls if name == "cuMemAllocHost")
    device_bytes, host_bytes = workspace_bytes(plan, groups, count=3, kept=1, piece_bytes=1000)
    assert 0 <= on_device - device_bytes <= 8 and 0 <= pinned - host_bytes <= 16
