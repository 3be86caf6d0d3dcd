"""Test the GPU labeller: labels of a volume equal those of the CPU labeller."""

from __future__ import annotations

import threading
import time
from dataclasses import replace

import numpy as np
import pytest

from gcis_runtime.grids.preprocess import preprocess
from gcis_runtime.images.volume import Volume
from gcis_runtime.sliding.cuda.kernels import Kernels
from gcis_runtime.sliding.cuda.labeller import GpuLabeller
from gcis_runtime.sliding.label_sink import LabelSink
from gcis_runtime.sliding.labeller import STAGES, CpuLabeller, LabelTask
from gcis_runtime.spec import PreprocessSpec
from gcis_runtime.system.stage_clock import StageClock
from tests.support import fake_cuda
from tests.support.gpu_blending import ROI, WEIGHTS, Session, make_plan, make_task, native_labels, network

SHAPE = (20, 24, 60)
PATIENCE = 20.0
"""Seconds that a test waits for another thread before it fails."""

VALUES, CHANNELS = (3, 1, 2), (1, 2, 0)


def label(labeller, *, shape, restore, masks, spacing=(3.0, 2.5, 4.0)):
    rng = np.random.default_rng(4)
    affine = np.diag([-2.0, -2.0, 3.0, 1.0])
    volume = Volume(array=rng.integers(-200, 300, shape).astype(np.int16), affine=affine)
    image = preprocess(volume, PreprocessSpec(orientation="RAS", spacing=spacing))
    plan = make_plan(image.transform.shape, axis=1)
    before = tuple((p - n) // 2 for p, n in zip(plan.padded, plan.shape, strict=True))
    plan = type(plan)(**{**{f: getattr(plan, f) for f in plan.__dataclass_fields__}, "before": before})
    sink = LabelSink(transform=image.transform, shape=volume.shape, values=VALUES, masks=masks)
    finished = []
    task = LabelTask(
        image=image, plan=plan, weights=WEIGHTS, padding_value=0.0, channels=CHANNELS, values=VALUES,
        restore=restore, done=finished.append,
    )  # fmt: skip
    clock = StageClock(*STAGES)
    count = labeller.label(task, sink, clock)
    found = sink.masks()
    assert (count.total, finished[-1]) == (len(plan.starts), len(plan.starts))
    assert clock.seconds["preprocess"] > 0 and clock.seconds["restore"] > 0
    return sink.labels, None if found is None else {value: found[value] for value in found}, count


def test_logits_stay_on_the_gpu_where_nothing_was_resampled():
    """Without resampling, smooth labels are those of the network grid."""
    driver = fake_cuda.FakeDriver()
    session = Session(driver, ROI)
    labels, _, _ = label(
        GpuLabeller(session, Kernels(session.gpu, b"")),
        shape=(31, 44, 20), restore="smooth", masks=False, spacing=None,
    )  # fmt: skip
    cpu = CpuLabeller(lambda window: network(window[0, 0])[None])
    expected, _, _ = label(cpu, shape=(31, 44, 20), restore="smooth", masks=False, spacing=None)
    np.testing.assert_array_equal(labels, expected)
    kernels = {a[0] for name, a in driver.calls if name == "cuLaunchKernel"}
    assert "finish_labels8" in kernels and "finish_logits" not in kernels


@pytest.mark.parametrize("shape", [(31, 44, 20), (9, 60, 5)])  # the second is smaller than a window
@pytest.mark.parametrize(
    ("restore", "masks"),
    [("nearest", False), ("nearest", True), ("smooth", False), ("published", False), ("published", True)],
)
def test_gpu_and_cpu_agree(shape, restore, masks):
    driver = fake_cuda.FakeDriver("mixed")
    session = Session(driver, ROI, batch=2)
    gpu = GpuLabeller(session, Kernels(session.gpu, b""))
    cpu = CpuLabeller(lambda window: network(window[0, 0])[None])
    ours, our_masks, our_count = label(gpu, shape=shape, restore=restore, masks=masks)
    theirs, their_masks, their_count = label(cpu, shape=shape, restore=restore, masks=masks)
    np.testing.assert_array_equal(ours, theirs)
    assert len(np.unique(ours)) == 4
    assert our_count == their_count
    if masks:
        assert all(np.array_equal(our_masks[value], their_masks[value]) for value in VALUES)
    before = set(driver.alive)
    label(gpu, shape=shape, restore=restore, masks=masks)
    assert set(driver.alive) == before, "a second volume leaves nothing behind"


class WatchedImage:
    """An image that calls a function with the index of its first plane before it computes a box."""

    def __init__(self, image, before):
        self._image, self._before = image, before
        self.transform = image.transform

    def box(self, box):
        self._before(box[2].start)
        return self._image.box(box)


def test_planes_are_prepared_while_the_network_runs():
    """A session that waits for the end of each run does not delay the preparation of the next slab."""
    started, seen = threading.Event(), []
    shape, task = make_task(np.diag([-2.0, -2.0, 2.0]), SHAPE)
    expected = native_labels(CpuLabeller(lambda window: network(window[0, 0])[None]), shape, task).labels

    class Synchronous(Session):
        def enqueue(self):
            super().enqueue()
            seen.append(started.wait(PATIENCE))
            self.gpu.finish(self.stream)

    session = Synchronous(fake_cuda.FakeDriver(), ROI)
    gpu = GpuLabeller(session, Kernels(session.gpu, b""), threads=3)
    watched = WatchedImage(task.image, lambda plane: started.set() if plane else None)
    labels = native_labels(gpu, shape, replace(task, image=watched)).labels
    assert seen and all(seen)
    np.testing.assert_array_equal(labels, expected)


def test_page_locked_memory_outlives_the_thread_that_writes_it():
    """After an error of the network, memory is freed only once no thread writes planes into it."""
    driver, writing = fake_cuda.FakeDriver(), threading.Event()
    shape, task = make_task(np.diag([-2.0, -2.0, 2.0]), SHAPE)
    ended = []

    def slow(plane):
        if plane:
            writing.set()
            time.sleep(0.3)
            ended.append(driver.names().count("cuMemFreeHost"))

    class Failing(Session):
        def enqueue(self):
            assert writing.wait(PATIENCE)
            raise RuntimeError("a run failed")

    session = Failing(driver, ROI)
    gpu = GpuLabeller(session, Kernels(session.gpu, b""))
    with pytest.raises(RuntimeError, match="a run failed"):
        native_labels(gpu, shape, replace(task, image=WatchedImage(task.image, slow)))
    assert ended == [0], "page-locked memory was freed while a thread wrote into it"
    assert "cuMemFreeHost" in driver.names()


def test_an_error_of_the_image_is_raised():
    def fail(plane):
        if plane:
            raise MemoryError("no memory for the planes")

    session = Session(fake_cuda.FakeDriver(), ROI)
    shape, task = make_task(np.diag([-2.0, -2.0, 2.0]), SHAPE)
    gpu = GpuLabeller(session, Kernels(session.gpu, b""))
    with pytest.raises(MemoryError, match="no memory for the planes"):
        native_labels(gpu, shape, replace(task, image=WatchedImage(task.image, fail)))
