"""Test native-grid labels with smooth boundaries on a simulated GPU: equal to the CPU bit for bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gcis_runtime.errors import DeviceMemoryError
from gcis_runtime.sliding.cuda import output
from gcis_runtime.sliding.cuda.blend import GpuBlender
from gcis_runtime.sliding.cuda.kernels import Kernels
from gcis_runtime.sliding.cuda.labeller import GpuLabeller, choose_output
from gcis_runtime.sliding.schedule import make_schedule
from tests.support import fake_cuda
from tests.support.gpu_blending import (
    CPU,
    ORDERS,
    ROI,
    VALUES,
    WEIGHTS,
    Session,
    make_task,
    native_labels,
)
from tests.support.grids import LINEAR, TURN


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Split the output of the small slabs of these tests into several chunks, as for fine grids."""
    monkeypatch.setattr(output, "_CHUNK_VOXELS", 2000)


def on_gpu(shape, task, *, order="late", kernels=None, seed=0):
    driver = fake_cuda.FakeDriver(order, kernels=kernels, seed=seed)
    session = Session(driver, ROI, batch=2)
    labeller = GpuLabeller(session, Kernels(session.gpu, b""))
    before = set(driver.alive)
    sink = native_labels(labeller, shape, task)
    assert set(driver.alive) == before, "something was not freed"
    return sink, driver


def names(driver):
    return {a[0] for name, a in driver.calls if name == "cuLaunchKernel"}


@pytest.mark.parametrize("case", LINEAR)
def test_labels_equal_the_hosts(case, host_kernels):
    for axis, overlap in ((0, 0.5), (1, 0.0), (2, 0.7)):
        shape, task = make_task(LINEAR[case], (23, 29, 19), axis=axis, overlap=overlap, seed=axis)
        ours, driver = on_gpu(shape, task, order=ORDERS[axis], kernels=host_kernels, seed=axis)
        theirs = native_labels(CPU, shape, task)
        np.testing.assert_array_equal(ours.labels, theirs.labels)
        assert ours.counts() == theirs.counts()
        assert set(np.unique(ours.labels)) == {0, *VALUES}
        kind = "sheared" if case == "tilt" else "separable"
        assert case == "same grid" or f"resample_{kind}" in names(driver)


@pytest.mark.parametrize("case", ["oblique", "permuted", "tilt"])
def test_straightened_labels_equal_the_hosts(case, host_kernels):
    turned = TURN @ LINEAR[case]
    for axis, overlap in ((0, 0.5), (2, 0.7)):
        shape, task = make_task(turned, (23, 29, 19), axis=axis, overlap=overlap, straighten=True)
        ours, driver = on_gpu(shape, task, order=ORDERS[axis], kernels=host_kernels)
        np.testing.assert_array_equal(ours.labels, native_labels(CPU, shape, task).labels)
        assert set(np.unique(ours.labels)) == {0, *VALUES} and "resample_sheared" in names(driver)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.tuples(*(st.integers(1, 26) for _ in range(3))),
    spacing=st.tuples(*(st.floats(0.6, 7) for _ in range(3))),
    flips=st.tuples(*(st.sampled_from([-1.0, 1.0]) for _ in range(3))),
    shear=st.sampled_from([0.0, 0.0, 0.15, -0.3]),
    axis=st.sampled_from([0, 1, 2]),
    overlap=st.floats(0, 0.8),
    order=st.sampled_from(ORDERS),
    seed=st.integers(0, 9),
    keep=st.floats(0.2, 1),
)
def test_any_grid_slab_axis_overlap_and_windows_left_out(
    host_kernels, *, shape, spacing, flips, shear, axis, overlap, order, seed, keep
):
    tilt = np.array([[1, 0, 0], [0, 1, shear], [0, 0, 1.0]])
    linear = tilt @ np.diag(np.multiply(spacing, flips))
    _, task = make_task(linear, shape, axis=axis, overlap=overlap, seed=seed)
    kept = np.random.default_rng(seed).random(len(task.plan.starts)) < keep
    starts = tuple(start for start, stays in zip(task.plan.starts, kept, strict=True) if stays)
    if not starts:
        return
    task = replace(task, plan=replace(task.plan, starts=starts))
    ours, _ = on_gpu(shape, task, order=order, kernels=host_kernels, seed=seed)
    np.testing.assert_array_equal(ours.labels, native_labels(CPU, shape, task).labels)


@pytest.mark.parametrize("linear", [np.diag([2.6, 2.1, 0.9]), LINEAR["tilt"]], ids=["axes", "tilt"])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_gaps_between_groups_of_windows(axis, linear, host_kernels):
    """Gaps of one plane and of several windows, before the first window and behind the last."""
    size = tuple(80 if a == axis else 22 for a in range(3))
    shape, task = make_task(linear, size, axis=axis, overlap=0.5)
    depth, length = ROI[axis], task.plan.padded[axis]
    for firsts in ([0, depth + 1], [3, 3 + 2 * depth + 1], [0, depth], [length - depth - 1]):
        assert firsts[-1] + depth <= length
        across = sorted({tuple(s[:axis] + s[axis + 1 :]) for s in task.plan.starts})
        starts = tuple((*s[:axis], first, *s[axis:]) for first in firsts for s in across)
        gapped = replace(task, plan=replace(task.plan, starts=starts))
        ours, _ = on_gpu(shape, gapped, order="first ahead", kernels=host_kernels)
        theirs = native_labels(CPU, shape, gapped)
        np.testing.assert_array_equal(ours.labels, theirs.labels)
        assert {0, *VALUES} == set(np.unique(ours.labels))


def test_a_plan_without_windows_is_background():
    shape, task = make_task(LINEAR["finer"], (12, 13, 14))
    task = replace(task, plan=replace(task.plan, starts=()))
    assert not on_gpu(shape, task)[0].labels.any()


def test_labels_above_255(host_kernels):
    for case in ("finer", "tilt"):
        shape, task = make_task(LINEAR[case], (20, 22, 12), values=(3, 300, 2))
        ours, driver = on_gpu(shape, task, kernels=host_kernels)
        np.testing.assert_array_equal(ours.labels, native_labels(CPU, shape, task).labels)
        assert ours.labels.dtype == np.uint16 and 300 in ours.labels
        assert {"resample_separable", "resample_sheared"} & names(driver)


def test_the_first_of_equal_logits_wins(host_kernels):
    """Two channels are equal everywhere."""
    shape, task = make_task(LINEAR["finer"], (20, 22, 12))
    task = replace(task, channels=(0, 0, 1))
    ours, _ = on_gpu(shape, task, kernels=host_kernels)
    np.testing.assert_array_equal(ours.labels, native_labels(CPU, shape, task).labels)
    assert VALUES[0] in ours.labels and VALUES[1] not in ours.labels


def test_only_labels_come_back(host_kernels):
    """One byte per voxel of the file is downloaded, each voxel once."""
    shape, task = make_task(np.diag([1.6, 1.7, 2.3]), (30, 40, 25))
    sink, driver = on_gpu(shape, task, kernels=host_kernels)
    groups = len(make_schedule(task.plan).slabs)
    sizes = [a[2] for name, a in driver.calls if name == "cuMemcpyDtoHAsync"]
    pieces = [size for size in sizes if size > 8 * len(task.plan.starts)]
    assert sum(pieces) == sink.labels.size
    assert len(pieces) > groups and max(pieces) <= 2000
    streams = [a[3] for name, a in driver.calls if name == "cuMemcpyDtoHAsync" and a[2] in pieces]
    kernels = {a[0]: a[8] for name, a in driver.calls if name == "cuLaunchKernel"}
    assert set(streams) == {kernels["scatter"]} != {kernels["resample_separable"]}


@pytest.mark.parametrize("wanted", [{"masks": True}, {"masks": False, "probabilities": True}])
def test_masks_and_probabilities_take_logits(wanted):
    shape, task = make_task(LINEAR["finer"], (15, 22, 12))
    session = Session(fake_cuda.FakeDriver("mixed"), ROI)
    ours = native_labels(GpuLabeller(session, Kernels(session.gpu, b"")), shape, task, **wanted)
    theirs = native_labels(CPU, shape, task, **wanted)
    np.testing.assert_array_equal(ours.labels, theirs.labels)
    for found, expected in ((ours.masks(), theirs.masks()), (ours.probabilities(), theirs.probabilities())):
        assert (found is None) == (expected is None)
        assert found is None or all(np.array_equal(found[value], expected[value]) for value in VALUES)
    assert not any(name.startswith("resample") for name in names(session.gpu.driver))


@pytest.mark.parametrize("case", ["finer", "tilt"])
def test_memory_does_not_grow_with_the_volume(case, monkeypatch):
    """Chunks have the same size for a volume of four times the length, up to one line of voxels."""
    sizes = []
    monkeypatch.setattr(output, "_CHUNK_VOXELS", 1 << 25)
    for length in (60, 240):
        _, task = make_task(LINEAR[case], (16, 16, length))
        found = choose_output(
            make_schedule(task.plan), task.image.transform, values=VALUES, smooth=True, logits=False
        )
        sizes.append(found.chunk_bytes)
    assert abs(sizes[0] - sizes[1]) <= 16 * 16
    monkeypatch.setattr(output, "_CHUNK_VOXELS", 100)  # less than one row across the file: cut twice
    found = choose_output(
        make_schedule(task.plan), task.image.transform, values=VALUES, smooth=True, logits=False
    )
    assert 0 < found.chunk_bytes <= 100


@pytest.mark.parametrize("case", ["finer", "tilt"])
def test_too_little_memory_at_any_point_frees_what_was_taken(case):
    """Each allocation fails in turn."""
    _, task = make_task(LINEAR[case], (16, 16, 30))
    driver = fake_cuda.FakeDriver()
    session = Session(driver, ROI)
    kernels, before = Kernels(session.gpu, b""), set(driver.alive)

    def blender():
        found = choose_output(
            make_schedule(task.plan), task.image.transform, values=VALUES, smooth=True, logits=False
        )
        return GpuBlender(
            session, kernels, make_schedule(task.plan), WEIGHTS, channels=(0, 1, 2), output=found
        )

    start = len(driver.calls)
    blender().close()
    taken = np.cumsum([a[0] for name, a in driver.calls[start:] if name == "cuMemAlloc"])
    assert len(taken) > 12
    for enough in taken:
        driver.room = int(enough) - 1
        with pytest.raises(DeviceMemoryError, match="out of memory"):
            blender()
        assert set(driver.alive) == before


def test_kernels_compiled_for_the_host_equal_numpy(host_kernels):
    """The NumPy versions of the kernels, used without a C++ compiler, equal the compiled kernels."""
    if host_kernels is None:
        pytest.skip("no C++ compiler")
    for case, values in (
        ("flipped", VALUES),
        ("tilt", VALUES),
        ("finer", (3, 300, 2)),
        ("tilt", (3, 300, 2)),
    ):
        shape, task = make_task(LINEAR[case], (14, 18, 13), values=values)
        ours, theirs = (on_gpu(shape, task, kernels=k)[0].labels for k in (host_kernels, None))
        np.testing.assert_array_equal(ours, theirs)
