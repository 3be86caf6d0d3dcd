"""The index of the corner-to-corner zoom is SciPy's, including ties and axes of one voxel."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from gcis_runtime.grids.corner_zoom import corner_index


def zoomed(array, shape):
    ratios = [float(n) / float(m) for n, m in zip(shape, array.shape, strict=True)]
    return ndimage.zoom(array, ratios, order=0, prefilter=False)


def looked_up(array, shape):
    padded = np.pad(array, [(0, 1)] * array.ndim)  # index `size_in` is background
    return padded[np.ix_(*(corner_index(m, n) for n, m in zip(shape, array.shape, strict=True)))]


def test_every_pair_of_lengths_equals_scipy():
    ties = blank = 0
    for size_in in range(1, 81):
        labels = np.arange(1, size_in + 1, dtype=np.uint8)
        for size_out in range(1, 121):
            expected = zoomed(labels, (size_out,))
            np.testing.assert_array_equal(looked_up(labels, (size_out,)), expected)
            blank += not expected.all()
            position = np.arange(size_out) * ((size_in - 1) / max(1, size_out - 1))
            ties += bool((position % 1 == 0.5).any())
    assert ties > 500 and blank > 50  # halves occur, and ends that SciPy leaves blank


@pytest.mark.parametrize(
    ("source", "target"),
    [
        ((9, 5, 1), (17, 9, 6)),
        ((17, 30, 12), (9, 1, 12)),
        ((1, 1, 1), (3, 1, 2)),
        ((30, 41, 22), (75, 6, 5)),
    ],
)
def test_three_axes_equal_scipy(source, target):
    labels = np.random.default_rng(0).integers(0, 5, source).astype(np.uint8)
    expected = zoomed(labels, target)
    assert expected.shape == target
    np.testing.assert_array_equal(looked_up(labels, target), expected)


def test_indices_never_decrease():
    for size_in, size_out in ((50, 7), (7, 50), (3, 3), (1, 4)):
        assert (np.diff(corner_index(size_in, size_out)) >= 0).all()
