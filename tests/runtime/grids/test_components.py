"""Test connected components from runs: they equal those of SciPy, also across chunks."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from gcis_runtime.grids import components as module
from gcis_runtime.grids.components import components, enclosed, find_runs, sizes

SHAPES = [(7, 9, 11), (1, 8, 8), (8, 1, 8), (8, 8, 1), (1, 1, 1), (4, 13, 2)]


def runs_of(mask):
    return find_runs(mask.shape, lambda planes: mask[planes])


def painted(runs, values, shape):
    out = np.zeros(shape, dtype=np.int64)
    for value in np.unique(values):
        out[runs.selected(values == value).voxels()] = value + 1
    return out


def same_partition(a, b):
    pairs = np.unique(np.stack([a.ravel(), b.ravel()]), axis=1)
    return all(len(np.unique(row)) == pairs.shape[1] for row in pairs)


@pytest.mark.parametrize("connectivity", [6, 26])
@pytest.mark.parametrize("density", [0.0, 0.1, 0.3, 0.6, 1.0])
def test_components_equal_those_of_scipy(connectivity, density):
    random = np.random.default_rng(int(10 * density) + connectivity)
    for shape in SHAPES * 3:
        mask = random.random(shape) < density
        runs = runs_of(mask)
        found = components(runs, connectivity)
        expected, count = ndimage.label(
            mask, ndimage.generate_binary_structure(3, {6: 1, 26: 3}[connectivity])
        )
        assert same_partition(painted(runs, found, shape), expected)
        size = sizes(runs, found)
        assert sorted(size[size > 0]) == sorted(np.bincount(expected.ravel())[1:])
        assert len(np.unique(found)) == count
        assert all(found[found] == found)  # named after the first run


def test_enclosed_background_equals_the_holes_of_scipy():
    random = np.random.default_rng(3)
    for _ in range(20):
        mask = random.random((9, 8, 10)) < 0.75
        runs = runs_of(~mask)
        holes = np.zeros(mask.shape, dtype=bool)
        holes[runs.selected(enclosed(runs, components(runs, 6))).voxels()] = True
        assert np.array_equal(mask | holes, ndimage.binary_fill_holes(mask))


def test_chunks_change_nothing(monkeypatch):
    mask = np.random.default_rng(5).random((12, 6, 7)) < 0.4
    whole = runs_of(mask)
    monkeypatch.setattr(module, "_CHUNK", 50)
    monkeypatch.setattr(module, "_INDEXED", 50)
    parts = runs_of(mask)
    for name in ("line", "start", "stop"):
        assert np.array_equal(getattr(parts, name), getattr(whole, name))
    again = np.zeros_like(mask)
    assert len(parts.parts()) > 2
    for part in parts.parts():
        again[part.voxels()] = True
    assert np.array_equal(again, mask)
