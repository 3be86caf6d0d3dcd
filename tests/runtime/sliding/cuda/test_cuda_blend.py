"""Test blending on a simulated GPU: equal to the CPU bit for bit in every execution order."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest

from gcis_runtime.errors import DeviceMemoryError, EngineError
from gcis_runtime.sliding import blend
from gcis_runtime.sliding.blend import WindowCount
from gcis_runtime.sliding.cuda.blend import GpuBlender
from gcis_runtime.sliding.cuda.kernels import Kernels, compile_kernels
from gcis_runtime.sliding.schedule import make_schedule
from tests.support import fake_cuda
from tests.support.gpu_blending import (
    ORDERS,
    ROI,
    WEIGHTS,
    Session,
    blend_on_gpu,
    image,
    make_output,
    make_plan,
    network,
    plane_source,
    whole_volume_blend,
)


def labels_of(logits, values):
    return np.where(logits.max(axis=0) > 0, np.array(values)[logits.argmax(axis=0)], 0)


@pytest.mark.parametrize(("axis", "order"), list(itertools.product((0, 1, 2), ORDERS)))
def test_labels_equal_the_whole_volume_blend(axis, order, host_kernels):
    plan = make_plan((20, 31, 27), axis=axis)
    array = image(plan.padded)
    logits = whole_volume_blend(array, plan, (0, 2, 1))
    driver = fake_cuda.FakeDriver(order, kernels=host_kernels, seed=axis)
    labels, _ = blend_on_gpu(driver, plan, array)
    np.testing.assert_array_equal(labels, labels_of(logits, (5, 9, 2)))
    assert set(np.unique(labels)) == {0, 2, 5, 9} or set(np.unique(labels)) == {2, 5, 9}


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.7])
def test_logits_equal_bit_for_bit(overlap, host_kernels):
    plan = make_plan((17, 12, 33), overlap=overlap)
    array = image(plan.padded)
    expected = whole_volume_blend(array, plan, (1, 0))
    driver = fake_cuda.FakeDriver("mixed", kernels=host_kernels, seed=3)
    logits, _ = blend_on_gpu(driver, plan, array, channels=(1, 0), values=None)
    np.testing.assert_array_equal(logits, expected)


def test_windows_may_be_left_out(host_kernels):
    """Gaps before, after and next to windows, and gaps larger than a window."""
    full = make_plan((15, 12, 83), overlap=0.25)
    drop = [0, 1, 5, *range(7, 13), len(full.starts) - 1, len(full.starts) - 2]
    plan = make_plan((15, 12, 83), overlap=0.25, drop=drop)
    assert max(b - a for a, b in itertools.pairwise(sorted({s[2] for s in plan.starts}))) > ROI[2]
    array = image(plan.padded)
    expected = whole_volume_blend(array, plan, (0, 1, 2))
    for values in (None, (1, 2, 300)):
        driver = fake_cuda.FakeDriver("late", kernels=host_kernels)
        found, _ = blend_on_gpu(driver, plan, array, channels=(0, 1, 2), values=values)
        np.testing.assert_array_equal(found, expected if values is None else labels_of(expected, values))
        assert values is None or found.dtype == np.uint16


@pytest.mark.parametrize(("batch", "order"), list(itertools.product((1, 3, 8), ORDERS)))
def test_batches_and_constant_windows(batch, order, host_kernels):
    """Batches are full: neither a constant window nor the end of a slab ends one."""
    plan = make_plan((29, 17, 50))
    array = image(plan.padded)
    expected = whole_volume_blend(array, plan, (0, 2, 1))
    count = WindowCount()
    driver = fake_cuda.FakeDriver(order, kernels=host_kernels, seed=batch)
    logits, runs = blend_on_gpu(driver, plan, array, batch=batch, values=None, count=count)
    np.testing.assert_array_equal(logits, expected)
    boxes = (tuple(slice(s, s + r) for s, r in zip(start, ROI, strict=True)) for start in plan.starts)
    constant = sum(np.ptp(array[box]) == 0 for box in boxes)
    assert constant > 10
    assert (count.total, count.reused) == (len(plan.starts), constant - 1)
    assert runs == -(-(count.total - count.reused) // batch)


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("batch", [2, 5])
def test_batches_larger_than_a_slab(batch, order, host_kernels):
    """Two windows per slab, some of them left out, and a gap: a batch holds windows of at most two slabs."""
    full = make_plan((12, 12, 90), overlap=0.5)
    plan = make_plan((12, 12, 90), overlap=0.5, drop=(1, 6, 7, 20, 21, 22, 23, 24, 25))
    assert len({s[2] for s in full.starts}) * 2 == len(full.starts)
    array = image(plan.padded)
    expected = whole_volume_blend(array, plan, (0, 2, 1))
    driver = fake_cuda.FakeDriver(order, kernels=host_kernels, seed=batch)
    logits, runs = blend_on_gpu(driver, plan, array, batch=batch, values=None)
    np.testing.assert_array_equal(logits, expected)
    assert runs < len(plan.starts)


def test_negative_and_mixed_windows_are_not_taken_for_constant(host_kernels):
    plan = make_plan((8, 12, 25))
    array = -image(plan.padded)
    count = WindowCount()
    logits, _ = blend_on_gpu(
        fake_cuda.FakeDriver(kernels=host_kernels), plan, array, channels=(0,), values=None, count=count
    )
    expected = whole_volume_blend(array, plan, (0,))
    np.testing.assert_array_equal(logits, expected)
    assert count.reused == 0


def test_copies_overlap_the_network(host_kernels):
    """The upload of the next slab is queued in another stream before the CPU waits for this slab's labels."""
    driver = fake_cuda.FakeDriver(kernels=host_kernels)
    plan = make_plan((8, 12, 50))
    blend_on_gpu(driver, plan, image(plan.padded))
    copies = [a[-1] for name, a in driver.calls if name in ("cuMemcpyHtoDAsync", "cuMemcpyDtoHAsync")]
    kernels = [(a[0], a[8]) for name, a in driver.calls if name == "cuLaunchKernel"]
    (copy,) = set(copies)
    assert {stream for name, stream in kernels if name in ("scatter", "value_range")} == {copy}
    (compute,) = {stream for name, stream in kernels if name not in ("scatter", "value_range")}
    assert compute != copy
    order = [name for name, _ in kernels]
    first, second, *_ = (i for i, name in enumerate(order) if name == "scatter")
    assert first < order.index("crop") < second < order.index("crop", second)
    back = [i for i, (name, _) in enumerate(driver.calls) if name == "cuMemcpyDtoHAsync"]
    assert back
    labels = sum(a[2] for name, a in driver.calls if name == "cuMemcpyDtoHAsync")
    assert labels < 2 * np.prod(plan.padded)  # labels, and not logits of four bytes and channels


def test_a_window_takes_two_launches_and_no_wait(host_kernels):
    """Waits and copies grow with the number of slabs, not with that of windows, and nothing is allocated."""
    driver = fake_cuda.FakeDriver(kernels=host_kernels)
    plan = make_plan((29, 17, 50))
    noise = np.random.default_rng(0).random(plan.padded, dtype=np.float32)
    session = Session(driver, ROI, batch=4)
    kernels, output = Kernels(session.gpu, b""), make_output(plan, (0,), (1,))
    blender = GpuBlender(session, kernels, make_schedule(plan), WEIGHTS, channels=(0,), output=output)
    before = len(driver.calls)
    list(blender.blocks(plane_source(noise, plan)))
    calls = driver.calls[before:]
    blender.close()
    windows, slabs = len(plan.starts), len(make_schedule(plan).slabs)
    assert windows > 10 * slabs
    launches = Counter(a[0] for name, a in calls if name == "cuLaunchKernel")
    assert launches == {
        "crop": windows, "accumulate": windows,
        "scatter": slabs, "value_range": slabs, "finish_labels8": slabs,
    }  # fmt: skip
    assert Counter(name for name, _ in calls if name != "cuLaunchKernel") == {
        "cuCtxSetCurrent": 1,
        "cuMemsetD8Async": 3 + 2 * slabs,  # sums, weights and flag; value ranges
        "cuMemcpyHtoDAsync": 2 * slabs,  # planes, starts of windows
        "cuMemcpyDtoHAsync": 3 * slabs,  # value ranges, labels, flag
        "cuEventRecord": 3 * slabs,
        "cuStreamWaitEvent": slabs,
        "cuEventSynchronize": 2 * slabs,  # planes, labels
    }


def test_a_logit_that_is_not_finite_is_an_error(host_kernels):
    plan = make_plan((8, 12, 25))
    session = Session(
        fake_cuda.FakeDriver(kernels=host_kernels), ROI, run=lambda w: network(w) * np.float32(np.nan)
    )
    blender = GpuBlender(
        session,
        Kernels(session.gpu, b""),
        make_schedule(plan),
        WEIGHTS,
        channels=(0,),
        output=make_output(plan, (0,), (1,)),
    )
    with pytest.raises(EngineError, match="not finite"):
        list(blender.blocks(plane_source(image(plan.padded), plan)))
    blender.close()
    blender.close()


def test_too_little_memory_frees_what_was_taken():
    driver = fake_cuda.FakeDriver()
    session = Session(driver, ROI)
    kernels = Kernels(session.gpu, b"")
    before = dict(driver.alive)
    driver.fail["cuMemAllocHost"] = "CUDA_ERROR_OUT_OF_MEMORY"
    plan = make_plan((8, 12, 20))
    with pytest.raises(DeviceMemoryError, match="out of memory"):
        GpuBlender(
            session,
            kernels,
            make_schedule(plan),
            WEIGHTS,
            channels=(0,),
            output=make_output(plan, (0,), (1,)),
        )
    assert driver.alive.keys() == before.keys()


def test_kernels_compiled_for_the_host_equal_numpy(host_kernels):
    """The NumPy versions of the kernels, used without a C++ compiler, equal the compiled kernels."""
    if host_kernels is None:
        pytest.skip("no C++ compiler")
    plan = make_plan((10, 25, 30), axis=1)
    array = image(plan.padded)
    for values in (None, (1, 2, 3), (1, 2, 3000)):
        answers = [
            blend_on_gpu(fake_cuda.FakeDriver(kernels=k), plan, array, values=values)[0]
            for k in (host_kernels, None)
        ]
        np.testing.assert_array_equal(*answers)


@pytest.mark.parametrize("sm", ["sm_80", "sm_90", "sm_120", "sm_999"])
def test_nvrtc_compiles_the_kernels(sm):
    pytest.importorskip("cuda.bindings.nvrtc")
    image = compile_kernels(sm)
    # A GPU newer than this NVRTC gets PTX, which its driver finishes.
    assert image[:4] == (b"\x7fELF" if sm != "sm_999" else b"//\n/")
    from gcis_runtime.sliding.cuda.kernels import NAMES

    assert all(name.encode() in image for name in NAMES)


def test_cpu_and_gpu_keep_the_same_outputs(monkeypatch):
    """For windows of three alternating values, CPU and GPU reuse the same windows."""
    plan = make_plan((8, 12, 200), overlap=0.0)
    array = np.zeros(plan.padded, np.float32)
    for number, (_, _, z) in enumerate(plan.starts):
        array[:, :, z : z + ROI[2]] = number % 3
    for kept, reused in ((1, 6), (2, 12)):
        monkeypatch.setattr(blend, "KEPT_OUTPUT_BYTES", kept * 3 * 4 * int(np.prod(ROI)))
        counts = WindowCount(), WindowCount()
        predict = blend.reuse_constant(lambda window: network(window[0, 0])[None], counts[0])
        for start in plan.starts:
            box = tuple(slice(s, s + r) for s, r in zip(start, ROI, strict=True))
            predict(array[box][None, None])
        blend_on_gpu(fake_cuda.FakeDriver(), plan, array, count=counts[1])
        assert counts[0] == counts[1] == WindowCount(total=20, reused=reused)
