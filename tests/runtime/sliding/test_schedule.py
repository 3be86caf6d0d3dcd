"""Test the schedule that blending on the CPU and on the GPU share."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gcis_runtime.sliding.schedule import make_schedule
from tests.support.gpu_blending import ROI, make_plan


@settings(max_examples=80, deadline=None)
@given(
    shape=st.tuples(*(st.integers(1, 45) for _ in range(3))),
    overlap=st.sampled_from([0.0, 0.25, 0.5, 0.8]),
    axis=st.sampled_from([0, 1, 2]),
    share=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    seed=st.integers(0, 9),
)
def test_slabs_cover_the_windows_of_any_plan(*, shape, overlap, axis, share, seed):
    plan = make_plan(shape, overlap=overlap, axis=axis)
    rng = np.random.default_rng(seed)
    plan = replace(plan, starts=tuple(start for start in plan.starts if rng.random() < share))
    schedule, depth = make_schedule(plan), ROI[axis]
    assert [start for slab in schedule.slabs for start in slab.windows] == list(plan.starts)
    loaded: list[int] = []
    finished: list[int] = []
    windows = 0
    for number, slab in enumerate(schedule.slabs):
        assert (slab.number, slab.windows_before) == (number, windows)
        windows += len(slab.windows)
        assert {start[axis] for start in slab.windows} == {slab.first}
        loaded += range(slab.new_first, slab.new_first + slab.new_planes)
        # Planes of a slab are consecutive in the order in which planes are loaded.
        assert loaded[slab.loaded_before : slab.loaded_before + depth] == list(
            range(slab.first, slab.first + depth)
        )
        finished += range(slab.first, slab.first + slab.finished)
        later = [start[axis] for other in schedule.slabs[number + 1 :] for start in other.windows]
        assert all(first >= slab.first + slab.finished for first in later)
        assert slab.finished == depth or slab.first + slab.finished == min(later)
        for row in slab.rows:
            assert row.first < row.end <= plan.padded[plan.across[0]]
    assert len(set(loaded)) == len(loaded)
    assert finished == loaded  # every plane that is read is finished once


def test_a_plan_without_windows_has_no_slabs():
    schedule = make_schedule(replace(make_plan((9, 9, 9)), starts=()))
    assert schedule.slabs == () and schedule.slab_windows == schedule.later_planes == 0
    assert schedule.finished_planes == schedule.carried_planes == 0
