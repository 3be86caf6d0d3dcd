"""The accumulator's buffers have exactly the predicted size."""

from __future__ import annotations

import numpy as np
import pytest

from gcis_runtime.sliding import carry_over as waiting
from gcis_runtime.sliding.accumulator import Buffers
from gcis_runtime.sliding.plan import plan_windows
from gcis_runtime.sliding.schedule import schedule
from gcis_runtime.spec import WindowSpec
from gcis_runtime.system.worker_threads import ALONE


@pytest.mark.parametrize(("shape", "axis"), [((150, 100, 70), 2), ((64, 64, 200), 0), ((20, 20, 20), 1)])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
def test_sums_are_as_large_as_predicted(shape, axis, overlap):
    plan = plan_windows(shape, WindowSpec(patch_size=(64, 64, 64), overlap=overlap), axis=axis)
    order = schedule(plan)
    wait = waiting.MemoryWaiting((4, *order.waiting_shape), (plan.axis, *plan.across), ALONE)
    buffers = Buffers(order, np.ones((64, 64, 64), np.float32), (0, 1, 2), waiting=wait, workers=ALONE)
    assert order.working_bytes(3) == buffers._strip.nbytes + buffers._room.nbytes
    assert order.waiting_bytes(3) == wait.sums.nbytes
