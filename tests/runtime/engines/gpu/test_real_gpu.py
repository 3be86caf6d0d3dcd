"""Test on a real GPU: the properties tested with the fake driver, and every engine against the CPU."""

from __future__ import annotations

import numpy as np
import pytest

from gcis_runtime.bundles.bundle import open_bundle
from gcis_runtime.engines.factory import open_session
from gcis_runtime.engines.gpu.device import Device
from gcis_runtime.engines.gpu.probe import probe_driver, require_gpu
from gcis_runtime.engines.onnx.cuda import OnnxCudaSession
from gcis_runtime.engines.onnx.cuda_settings import candidates
from gcis_runtime.engines.options import EngineOptions
from gcis_runtime.errors import EngineError
from gcis_runtime.images.nifti import read_volume
from gcis_runtime.pipeline.segmenter import Segmenter
from gcis_runtime.pipeline.trial.run_trial import run_trial
from gcis_runtime.sliding.cuda.blend import GpuBlender
from gcis_runtime.sliding.cuda.kernels import Kernels, compile_kernels
from gcis_runtime.sliding.cuda.labeller import GpuLabeller
from gcis_runtime.sliding.schedule import make_schedule
from tests.support.batch_bundle import add_batches
from tests.support.bundles_and_images import ROI, write_ct
from tests.support.gpu_blending import (
    CPU,
    WEIGHTS,
    image,
    make_output,
    make_plan,
    make_task,
    native_labels,
    network,
    plane_source,
)
from tests.support.gpu_blending import ROI as SMALL
from tests.support.grids import LINEAR

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(probe_driver().problem is not None, reason=f"{probe_driver().problem}"),
]


class HostNetwork:
    """The test network, computed by the host on copies of the GPU's memory."""

    name, device, precision, batch = "host", "cuda:0", "fp32", 1

    def __init__(self):
        self.gpu = Device(require_gpu("cuda"))
        self.stream = self.gpu.stream()
        size = 4 * int(np.prod(SMALL))
        self.input, self.output = self.gpu.allocate(size), self.gpu.allocate(3 * size)
        self._there, self._back = self.gpu.pinned(3 * size), self.gpu.pinned(size)

    def enqueue(self):
        self.gpu.download(self._back.address, self.input, self.input.bytes, self.stream)
        self.gpu.finish(self.stream)
        self._there.view((3, *SMALL), np.float32)[...] = network(self._back.view(SMALL, np.float32))
        self.gpu.upload(self.output, self._there.address, self.output.bytes, self.stream)
        self.gpu.finish(self.stream)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_blending_equals_numpy_bit_for_bit(axis):
    from tests.support.gpu_blending import whole_volume_blend

    plan = make_plan((20, 31, 27), axis=axis)
    array = image(plan.padded)
    session = HostNetwork()
    kernels = Kernels(session.gpu, compile_kernels(session.gpu.info.sm))
    blender = GpuBlender(
        session,
        kernels,
        make_schedule(plan),
        WEIGHTS,
        channels=(0, 2, 1),
        output=make_output(plan, (0, 2, 1), None),
    )
    parts = [np.array(block.data) for block in blender.blocks(plane_source(array, plan))]
    blender.close()
    session.gpu.close()
    np.testing.assert_array_equal(
        np.concatenate(parts, axis=axis + 1), whole_volume_blend(array, plan, (0, 2, 1))
    )


@pytest.mark.parametrize("case", ["finer", "flipped", "tilt"])
def test_smooth_labels_equal_the_hosts_bit_for_bit(case):
    shape, task = make_task(LINEAR[case], (43, 39, 35))
    session = HostNetwork()
    kernels = Kernels(session.gpu, compile_kernels(session.gpu.info.sm))
    ours = native_labels(GpuLabeller(session, kernels), shape, task)
    session.gpu.close()
    np.testing.assert_array_equal(ours.labels, native_labels(CPU, shape, task).labels)


@pytest.mark.parametrize("engine", ["onnx", "trt", "trt-rtx"])
def test_engines_give_the_cpus_answer(make_bundle, tmp_path, engine):
    bundle = open_bundle(make_bundle())
    window = np.random.default_rng(0).random((1, 1, *ROI), dtype=np.float32)
    try:
        session = open_session(bundle, EngineOptions(engine=engine, device="cuda", precision="fp32"))
    except EngineError as error:
        pytest.skip(str(error))
    reference = open_session(bundle, EngineOptions(engine="onnx"))
    for factor in np.float32([1, 0.5, 0.25]):  # a replayed graph reads what is there, not what was
        np.testing.assert_allclose(session.run(window * factor), reference.run(window * factor), atol=1e-4)
    session.close()
    volume = read_volume(write_ct(tmp_path / "ct.nii.gz"))
    with Segmenter.open(bundle, engine=engine, device="cuda") as segmenter:
        labels = segmenter.segment(volume).labels
    with Segmenter.open(bundle, engine="onnx") as segmenter:
        expected = segmenter.segment(volume).labels
    assert np.mean(labels != expected) < 1e-4


def test_all_settings_give_the_cpus_answer_and_a_trial_chooses_one(make_bundle):
    bundle = open_bundle(add_batches(make_bundle(), 2, 4))
    windows = np.random.default_rng(0).random((4, 1, *ROI), dtype=np.float32)
    reference = open_session(bundle, EngineOptions(engine="onnx"))
    expected = np.concatenate([np.array(reference.run(window[None])) for window in windows])
    for settings in candidates(bundle.manifest, precision="fp32"):
        session = OnnxCudaSession(bundle, device="cuda", precision="fp32", settings=settings)
        for first in (*range(0, 4, settings.batch), 0):
            part = slice(first, first + settings.batch)
            np.testing.assert_allclose(session.run(windows[part]), expected[part], atol=1e-4)
        session.close()
    record = run_trial(bundle, "cuda")
    assert not [outcome for outcome in record.outcomes if outcome.problem.startswith("other logits")]
    session = open_session(bundle, EngineOptions(engine="onnx", device="cuda"))
    assert session.settings == record.settings
    session.close()
