"""Test that statistics equal those of numpy over the masked voxels, in any coordinate frame."""

from __future__ import annotations

import csv
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from gcis_runtime.images.volume import Volume
from gcis_runtime.pipeline.report_parts import StructureReport
from gcis_runtime.runs.statistics import COLUMNS, csv_rows, measure_structures, write_csv


@settings(max_examples=40, deadline=None)
@given(
    shape=st.tuples(*(st.integers(1, 9) for _ in range(3))),
    angle=st.sampled_from([0, 90, 180, 33]),
    spacing=st.tuples(*(st.floats(0.3, 8) for _ in range(3))),
    share=st.sampled_from([0.02, 0.3, 1.0]),
    seed=st.integers(0, 99),
)
def test_every_number_is_that_of_the_masked_voxels(shape, angle, spacing, share, seed):
    rng = np.random.default_rng(seed)
    affine = np.eye(4)
    affine[:3, :3] = Rotation.from_euler("xyz", [angle, angle / 3, 0], degrees=True).as_matrix() * spacing
    affine[:3, 3] = rng.uniform(-300, 300, 3)
    volume = Volume.from_array(rng.integers(-1000, 3000, shape), affine=affine)
    labels = rng.choice([2, 3, 300], shape).astype(np.uint16) * (rng.random(shape) < share)
    found = measure_structures(volume, labels, (300, 2, 9))
    assert list(found) == [300, 2, 9]
    assert found[9].voxels == 0 and found[9].mean_hu is None and not found[9].touches_edge
    for value in (300, 2):
        where = np.argwhere(labels == value)
        ours = found[value]
        assert ours.voxels == len(where)
        assert ours.volume_ml == pytest.approx(len(where) * volume.voxel_ml, abs=1e-4)
        if not len(where):
            assert ours.box_min_mm is None
            continue
        hu = volume.array[labels == value].astype(np.float64)
        assert ours.mean_hu == pytest.approx(hu.mean(), abs=1e-3)
        assert ours.sd_hu == pytest.approx(hu.std(), abs=1e-3)
        corners = np.concatenate([where + np.array(c) for c in product((-0.5, 0.5), repeat=3)])
        place = corners @ affine[:3, :3].T + affine[:3, 3]
        np.testing.assert_allclose(ours.box_min_mm, place.min(axis=0), atol=1e-3)
        np.testing.assert_allclose(ours.box_max_mm, place.max(axis=0), atol=1e-3)
        assert ours.touches_edge == bool((where == 0).any() or (where == np.array(shape) - 1).any())


def test_a_structure_inside_touches_no_edge():
    labels = np.zeros((9, 9, 9), np.uint8)
    labels[1:8, 1:8, 1:8] = 1
    volume = Volume.from_array(labels * 40, affine=np.diag([2.0, 2, 2, 1]))
    inside = measure_structures(volume, labels, (1,))[1]
    assert (inside.touches_edge, inside.mean_hu, inside.sd_hu) == (False, 40.0, 0.0)
    assert (inside.box_min_mm, inside.box_max_mm) == ((1.0, 1.0, 1.0), (15.0, 15.0, 15.0))
    for axis, end in product(range(3), (0, 8)):
        cut = labels.copy()
        np.moveaxis(cut, axis, 0)[end, 4, 4] = 1
        assert measure_structures(volume, cut, (1,))[1].touches_edge


def test_the_csv_has_a_row_a_structure(tmp_path):
    labels = np.zeros((4, 4, 4), np.uint8)
    labels[1, 2, 3] = 1
    volume = Volume.from_array(labels, affine=np.eye(4))
    found = measure_structures(volume, labels, (1, 2))
    structures = [
        StructureReport(name=n, value=v, volume_ml=0.0, statistics=found[v])
        for v, n in ((1, "a, b"), (2, "none"))
    ]
    write_csv(tmp_path / "s.csv", [COLUMNS, *csv_rows("ct", structures)])
    with (tmp_path / "s.csv").open(newline="") as file:
        one, two = csv.DictReader(file)
    assert (one["case"], one["structure"], one["voxels"], one["touches_edge"]) == ("ct", "a, b", "1", "true")
    bounds = [float(one[f"{axis}_{end}_mm"]) for end in ("min", "max") for axis in "xyz"]
    assert bounds == [0.5, 1.5, 2.5, 1.5, 2.5, 3.5]
    assert (two["mean_hu"], two["x_min_mm"], two["voxels"]) == ("", "", "0")
