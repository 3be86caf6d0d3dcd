"""Test values that depend only on the shape against MONAI's computation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.networks.nets.swin_unetr import WindowAttention, compute_mask, get_window_size, window_partition

from gcis_export.graph.layout import WindowLayout, bias_index

SEVEN = (7, 7, 7)


@pytest.mark.parametrize("dims", [(32, 32, 32), (16, 8, 8), (8, 4, 16), (14, 7, 9)])
def test_masks_are_monais(dims):
    layout = WindowLayout.of(dims, SEVEN)
    window, shift = get_window_size(dims, SEVEN, (3, 3, 3))
    assert (layout.window, layout.shift) == (window, shift)
    padded = [n * w for n, w in zip(layout.counts, window, strict=True)]
    expected = compute_mask(padded, window, shift, "cpu").numpy()  # (windows, tokens, tokens)
    regions = layout.regions()
    for number, group in zip(regions, layout.groups(), strict=True):
        mask = np.where(number[:, None] == number[None, :], 0.0, -100.0)
        for index in group:
            np.testing.assert_array_equal(mask, expected[index])
    assert sorted(w for group in layout.groups() for w in group) == list(range(layout.windows))
    assert len(regions) <= 8


def test_a_window_that_spans_the_grid_has_no_mask():
    layout = WindowLayout.of((4, 7, 6), SEVEN)
    assert not layout.shifted
    assert layout.windows == 1 and layout.pad == (0, 0, 0)
    assert layout.patterns() == [(False, False, False)]


@pytest.mark.parametrize("tokens", [343, 64, 196])
def test_position_index_is_monais(tokens):
    expected = WindowAttention(12, 3, SEVEN).relative_position_index[:tokens, :tokens]
    rows, columns = bias_index(7, tokens)
    assert torch.equal(torch.from_numpy(rows[:, None] - columns[None, :]), expected)


@pytest.mark.parametrize("dims", [(16, 8, 8), (8, 4, 16), (14, 7, 9)])
@pytest.mark.parametrize("batch", [1, 3])
def test_rolled_places_are_monais_pad_roll_and_partition(dims, batch):
    layout = WindowLayout.of(dims, SEVEN)
    tokens = int(np.prod(dims))
    volume = torch.arange(1.0, batch * tokens + 1).reshape(batch, *dims, 1)  # 0 is what padding adds
    x, y, z = layout.pad
    padded = torch.nn.functional.pad(volume, (0, 0, 0, z, 0, y, 0, x))
    rolled = torch.roll(padded, [-s for s in layout.shift], dims=(1, 2, 3))
    windows = window_partition(rolled, layout.window).reshape(batch, layout.windows, layout.tokens)
    rows = torch.cat([volume.flatten(), torch.zeros(1)]).numpy()
    placed = rows[layout.rolled(batch)]
    start = 0
    for group in layout.groups():
        stop = start + batch * len(group)
        expected = windows[:, group].reshape(-1, layout.tokens).numpy()
        np.testing.assert_array_equal(placed[start:stop], expected)
        start = stop
    assert start == len(placed)
    np.testing.assert_array_equal(placed.flatten()[layout.unrolled(batch)], rows[:-1])
