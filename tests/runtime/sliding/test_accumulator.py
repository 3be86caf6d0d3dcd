"""Test that the accumulator's buffers have exactly the predicted size."""

from __future__ import annotations

import numpy as np
import pytest

from gcis_runtime.sliding import carry_over
from gcis_runtime.sliding.accumulator import Accumulator
from gcis_runtime.sliding.plan import plan_windows
from gcis_runtime.sliding.schedule import make_schedule
from gcis_runtime.spec import WindowSpec
from gcis_runtime.system.worker_threads import ALONE


@pytest.mark.parametrize(("shape", "axis"), [((150, 100, 70), 2), ((64, 64, 200), 0), ((20, 20, 20), 1)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
def test_sums_are_as_large_as_predicted(shape, axis, overlap):
    plan = plan_windows(shape, WindowSpec(patch_size=(64, 64, 64), overlap=overlap), axis=axis)
    schedule = make_schedule(plan)
    carried = carry_over.MemoryCarryOver((4, *schedule.carry_over_shape), (plan.axis, *plan.across), ALONE)
    accumulator = Accumulator(
        schedule, np.ones((64, 64, 64), np.float32), (0, 1, 2), carry_over=carried, workers=ALONE
    )
    assert schedule.working_bytes(3) == accumulator._ring.nbytes + accumulator._tile.nbytes
    assert schedule.carry_over_bytes(3) == carried.sums.nbytes
