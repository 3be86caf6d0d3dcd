"""What depends on the shape alone, against MONAI's own computation."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.networks.nets.swin_unetr import WindowAttention, compute_mask, get_window_size

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
