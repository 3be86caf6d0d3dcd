"""Test that labels reach the file grid at the right voxels, for every orientation of the file."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from gcis_runtime.grids.grid_transform import GridTransform
from gcis_runtime.sliding import label_sink
from gcis_runtime.sliding.label_sink import LabelSink

SHAPE = (41, 50, 37)


def _sink(order, flips, values):
    transform = GridTransform(
        flips=flips, order=order, to_network=None, to_file=None, shape=SHAPE, affine=np.eye(4)
    )
    return LabelSink(transform=transform, shape=SHAPE, values=values, masks=False), transform


@pytest.mark.parametrize("memory", ["C", "F"])
@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("flips", [(), (1,), (0, 2)])
@pytest.mark.parametrize("values", [(1, 2, 3), (1, 300)])
def test_labels_of_boxes_are_placed_and_counted(order, flips, memory, values, monkeypatch):
    """Boxes that touch and overlap give the label map that was cut into them."""
    monkeypatch.setattr(label_sink, "_BLOCK_PLANES", 7)
    monkeypatch.setattr(label_sink, "_BLOCK_LINE", 16)
    monkeypatch.setattr(label_sink, "_COUNTED", 1000)
    sink, transform = _sink(order, flips, values)
    rng = np.random.default_rng(0)
    known = np.array((0, 0, *values), dtype=sink.labels.dtype)
    expected = known[rng.integers(0, len(known), SHAPE)]
    oriented = transform.oriented(expected)
    middle = oriented.shape[0] // 2
    first, second = np.array(oriented), np.array(oriented)
    first[middle:], second[:middle] = 0, 0  # both boxes overlap in ten planes, in which one of them is zero
    for box, labels in (
        ((slice(0, middle + 5), slice(None), slice(None)), first[: middle + 5]),
        ((slice(middle - 5, None), slice(None), slice(None)), second[middle - 5 :]),
    ):
        sink.put(box, np.array(labels, order=memory))
    np.testing.assert_array_equal(sink.labels, expected)
    assert sink.counts() == {value: int(np.sum(expected == value)) for value in values}
    assert sink.labels.flags.f_contiguous


def test_thin_and_empty_boxes_are_placed():
    sink, _ = _sink((0, 1, 2), (), (1,))
    sink.put((slice(3, 4), slice(5, 6), slice(0, 37)), np.ones((1, 1, 37), np.uint8))
    sink.put((slice(3, 3), slice(0, 9), slice(0, 9)), np.ones((0, 9, 9), np.uint8))
    assert sink.counts() == {1: 37} and sink.labels[3, 5].all()
