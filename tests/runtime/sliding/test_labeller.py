"""Test the CPU labeller: exclusive stage times, and memory that grows with a slab only."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from gcis_runtime.grids.preprocess import preprocess
from gcis_runtime.images.volume import Volume
from gcis_runtime.sliding.label_sink import LabelSink
from gcis_runtime.sliding.labeller import STAGES, CpuLabeller, LabelTask
from gcis_runtime.sliding.plan import plan_windows, window_weights
from gcis_runtime.spec import PreprocessSpec, WindowSpec
from gcis_runtime.system.stage_clock import StageClock

CHANNELS = 12
SPEC = PreprocessSpec(orientation="RAS", spacing=(1.0, 1.0, 1.0))
WINDOW = WindowSpec(patch_size=(64, 64, 64), overlap=0.25)


def label(volume, restore="smooth", masks=False):
    image = preprocess(volume, SPEC)
    values = tuple(range(1, CHANNELS + 1))
    answer = np.empty((1, CHANNELS, 64, 64, 64), np.float32)

    def predict(window):
        for channel in range(CHANNELS):
            np.subtract(window[0, 0], np.float32(0.5 + 0.04 * channel), out=answer[0, channel])
        return answer

    task = LabelTask(
        image=image, plan=plan_windows(image.transform.shape, WINDOW), weights=window_weights(WINDOW),
        padding_value=0.0, channels=tuple(range(CHANNELS)), values=values, restore=restore,
    )  # fmt: skip
    sink = LabelSink(transform=image.transform, shape=volume.shape, values=values, masks=masks)
    clock = StageClock(*STAGES)
    return sink, CpuLabeller(predict).label(task, sink, clock), clock


def volume_of(length):
    rng = np.random.default_rng(0)
    array = rng.integers(-1000, 1000, (40, 40, length)).astype(np.int16)
    return Volume(array=np.asfortranarray(array), affine=np.diag([-1.6, -1.6, 1.5, 1.0]))


def peak_of(length, restore):
    volume = volume_of(length)
    tracemalloc.start()
    sink, _, _ = label(volume, restore)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak, sink.labels.nbytes


@pytest.mark.parametrize("restore", ["smooth", "nearest", "published"])
def test_memory_grows_with_a_slab_and_not_with_the_volume(restore):
    short, few = peak_of(150, restore)
    long, many = peak_of(450, restore)
    whole = CHANNELS * 64 * 64 * 300 * 1.5 * 4  # what the other 300 file planes would hold as logits
    assert long - short < (many - few) + 0.02 * whole
    assert short > 0.1 * whole  # the measure sees the buffers


def test_stages_exclude_what_runs_inside_them():
    ticks = iter([0.0, 1.0, 5.0, 7.0, 10.0, 12.0, 20.0, 21.0, 30.0, 30.5])
    clock = StageClock("outer", "inner", "never", timer=lambda: next(ticks))
    with clock.stage("outer"):
        for _ in range(2):
            with clock.stage("inner"):  # 1 to 5, 7 to 10
                pass
    assert clock.seconds == {"outer": 5.0, "inner": 7.0, "never": 0.0}
    with pytest.raises(KeyError), clock.stage("outer"):  # 20 to 21: a failing stage is timed too
        raise KeyError
    with clock.stage("after"):
        pass
    assert clock.seconds == {"outer": 6.0, "inner": 7.0, "never": 0.0, "after": 0.5}


def test_every_stage_is_timed_and_windows_counted():
    _, count, clock = label(volume_of(150))
    assert (
        count.total == len(plan_windows(preprocess(volume_of(150), SPEC).transform.shape, WINDOW).starts) > 1
    )
    assert list(clock.seconds) == list(STAGES)
    assert all(seconds > 0 for seconds in clock.seconds.values())
