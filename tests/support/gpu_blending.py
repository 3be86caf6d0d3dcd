"""Provide a small network on the fake GPU with windows, blending weights, label tasks and expected logits."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np

from gcis_runtime.engines.gpu.device import Device
from gcis_runtime.grids.preprocess import preprocess
from gcis_runtime.images.volume import Volume
from gcis_runtime.sliding.cuda.blend import GpuBlender
from gcis_runtime.sliding.cuda.kernels import Kernels
from gcis_runtime.sliding.cuda.output import NetworkGridOutput
from gcis_runtime.sliding.label_sink import LabelSink
from gcis_runtime.sliding.labeller import STAGES, CpuLabeller, LabelTask
from gcis_runtime.sliding.plan import WindowPlan, axis_starts
from gcis_runtime.sliding.schedule import make_schedule
from gcis_runtime.spec import PreprocessSpec
from gcis_runtime.system.stage_clock import StageClock
from tests.support import fake_cuda
from tests.support.numpy_kernels import array_at

ROI = (8, 12, 10)
WEIGHTS = np.random.default_rng(1).uniform(0.1, 1, ROI).astype(np.float32)
CHANNELS = 3
VALUES = (3, 1, 2)
"""Label values of the tasks of `make_task`."""
ORDERS = ("late", "early", "first ahead", "others ahead", "mixed")
"""Orders of execution that `FakeDriver` simulates."""


def network(window):
    """Map (X, Y, Z) to (3, X, Y, Z): different channels, both signs, ties at constant windows."""
    return np.stack([window - np.float32(0.5), np.float32(0.4) - window, np.sin(7 * window)]).astype(
        np.float32
    )


class Session:
    """A network on the fake GPU."""

    name, device, precision = "fake", "cuda:0", "fp32"

    def __init__(self, driver, roi, *, batch=1, run=network):
        self.gpu, self.batch, self._run, self._roi = Device(fake_cuda.gpu(), driver), batch, run, roi
        self.stream = self.gpu.stream()
        size = 4 * batch * int(np.prod(roi))
        self.input, self.output = self.gpu.allocate(size), self.gpu.allocate(size * CHANNELS)
        self.runs = 0

    def enqueue(self):
        self.runs += 1
        self.gpu.driver.queue(self.stream, self._compute)

    def _compute(self):
        windows = array_at(self.input.address, (self.batch, *self._roi), np.float32)
        out = array_at(self.output.address, (self.batch, CHANNELS, *self._roi), np.float32)
        for window, answer in zip(windows, out, strict=True):
            answer[...] = self._run(window)


def image(shape, seed=0):
    """Return noise with a constant part, so that some windows are constant."""
    array = np.random.default_rng(seed).random(shape, dtype=np.float32)
    array[shape[0] // 4 : shape[0] * 3 // 4, :, shape[2] // 3 :] = 0.25
    return array


def whole_volume_blend(array, plan, channels):
    """Return reference logits, blended with sums of the whole volume. Zero where no window lies."""
    total, norm = np.zeros((len(channels), *plan.padded), np.float32), np.zeros(plan.padded, np.float32)
    for start in plan.starts:
        box = tuple(slice(s, s + r) for s, r in zip(start, plan.patch_size, strict=True))
        answer = network(np.ascontiguousarray(array[box]))
        for sums, channel in zip(total, channels, strict=True):
            sums[box] += answer[channel] * WEIGHTS
        norm[box] += WEIGHTS
    return np.divide(total, norm, out=np.zeros_like(total), where=norm > 0)


def make_plan(shape, *, overlap=0.5, axis=2, drop=()):
    padded = tuple(max(n, r) for n, r in zip(shape, ROI, strict=True))
    along = [axis_starts(n, r, overlap) for n, r in zip(padded, ROI, strict=True)]
    starts = sorted(itertools.product(*along), key=lambda s: (s[axis], s))
    kept = tuple(start for i, start in enumerate(starts) if i not in drop)
    return WindowPlan(shape=shape, before=(0, 0, 0), padded=padded, patch_size=ROI, axis=axis, starts=kept)


def plane_source(array, plan):
    def planes_into(first, out):
        planes = np.moveaxis(array, plan.axis, 0)[first : first + out.shape[plan.axis]]
        out[...] = np.moveaxis(planes, 0, plan.axis)
        return lambda: None

    return planes_into


def make_output(plan, channels, values):
    """Return the output of labels on the network grid, or of logits if no values are given."""
    given = values or tuple(range(1, 1 + len(channels)))
    return NetworkGridOutput(make_schedule(plan), values=given, logits=values is None)


CPU = CpuLabeller(lambda window: network(window[0, 0])[None])


def make_task(
    linear, shape, *, axis=2, overlap=0.5, drop=(), values=VALUES, seed=0, spacing=(2.0, 2.0, 2.0),
    straighten=False,
):  # fmt: skip
    """Return a task with noise and a constant part, on a resampled grid that is padded if it is too small."""
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = linear, (-50, 20, 7)
    array = np.random.default_rng(seed).integers(-200, 300, shape).astype(np.int16)
    array[shape[0] // 3 : shape[0] * 2 // 3, :, shape[2] // 2 :] = 40
    volume = Volume(array=array, affine=affine)
    image = preprocess(volume, PreprocessSpec(orientation="RAS", spacing=spacing), straighten=straighten)
    plan = make_plan(image.transform.shape, axis=axis, overlap=overlap, drop=drop)
    before = tuple((p - n) // 2 for p, n in zip(plan.padded, plan.shape, strict=True))
    return volume.shape, LabelTask(
        image=image, plan=replace(plan, before=before), weights=WEIGHTS, padding_value=0.0,
        channels=tuple(i % CHANNELS for i in range(1, 1 + len(values))), values=values, restore="smooth",
    )  # fmt: skip


def native_labels(labeller, shape, task, **wanted):
    sink = LabelSink(
        transform=task.image.transform, shape=shape, values=task.values, **{"masks": False} | wanted
    )
    labeller.label(task, sink, StageClock(*STAGES))
    return sink


def blend_on_gpu(
    driver, plan, array, *, channels=(0, 2, 1), values=(5, 9, 2), batch=1, count=None, network=network
):
    """Blend on the fake GPU; return labels, or logits without values, and the number of network runs."""
    session = Session(driver, plan.patch_size, batch=batch, run=network)
    kernels = Kernels(session.gpu, b"compiled")
    blender = GpuBlender(
        session,
        kernels,
        make_schedule(plan),
        WEIGHTS,
        channels=channels,
        output=make_output(plan, channels, values),
    )
    made = len(driver.alive)
    blocks = blender.blocks(plane_source(array, plan), count=count)
    parts = [(s.box[plan.axis].start, np.array(s.data)) for s in blocks]
    blender.close()
    assert len(driver.alive) < made
    session.gpu.close()
    assert driver.alive == {}, "something was not freed"
    axis = plan.axis + (values is None)
    assert [first for first, _ in parts] == [0, *np.cumsum([p.shape[axis] for _, p in parts])[:-1]]
    return np.concatenate([part for _, part in parts], axis=axis), session.runs
