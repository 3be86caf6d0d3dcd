"""Test every number of a parity row, and each limit on its own."""

from __future__ import annotations

import numpy as np
import pytest

from gcis_runtime.engines.parity import (
    HALF_WEIGHTS,
    LIMITS,
    PYTORCH,
    Tolerance,
    compare,
    describe,
    describe_limits,
    label_map,
    lead,
)
from gcis_runtime.errors import ParityError

SHAPE = (1, 1, 10, 10, 10)


def measured(ours, theirs, precision="fp32", tolerance=None):
    """Compare single windows, or lists of them."""
    as_list = lambda x: x if isinstance(x, list) else [x]  # noqa: E731
    return compare(
        "a",
        as_list(ours),
        "b",
        as_list(theirs),
        precision=precision,
        tolerance=tolerance or LIMITS[precision],
    )


def window(foreground=100, logit=1.0):
    """Return logits -1, and `logit` in the first `foreground` voxels."""
    out = np.full(1000, -1.0, np.float32)
    out[:foreground] = logit
    return out.reshape(SHAPE)


def test_equal_answers_pass():
    row = measured(window(), window())
    assert row.passed
    assert (row.max_abs, row.max_rel, row.scale, row.labels_changed, row.dice) == (0.0, 0.0, 1.0, 0.0, 1.0)
    assert (row.tolerance_rel, row.tolerance_abs, row.windows, row.graph) == (5e-3, 5e-3, 1, "")


def test_a_large_difference_alone_fails():
    ours = window()
    ours.flat[500] -= 0.006
    row = measured(ours, window())
    assert row.max_rel == pytest.approx(0.006, rel=1e-4) and (row.labels_changed, row.dice) == (0.0, 1.0)
    assert not row.passed


def test_a_window_of_small_values_is_judged_by_its_own_scale():
    """Values a hundred times larger in another window would otherwise hide its error."""
    small = window() * np.float32(0.01)
    row = measured([window(), small * np.float32(1.2)], [window(), small])
    assert row.max_abs < row.tolerance_abs and row.max_rel == pytest.approx(0.2, rel=1e-4)
    assert not row.passed


def test_labels_that_were_decided_may_not_change_but_a_toss_up_may():
    toss_up, decided = window(logit=0.0008), window(logit=0.003)
    change = np.where(window() > 0, np.float32(0.0035), np.float32(0.0))
    row = measured(toss_up - change, toss_up, tolerance=Tolerance(relative=5e-3, band=1e-3, labels=0, dice=0))
    assert (row.labels_changed, row.labels_decided, row.undecided) == (0.1, 0.0, 0.1) and row.passed
    row = measured(decided - change, decided, tolerance=Tolerance(relative=5e-3, band=1e-3, labels=0, dice=0))
    assert (row.labels_changed, row.labels_decided, row.undecided) == (0.1, 0.1, 0.0)
    assert row.relative <= row.limit_relative and not row.passed


def test_a_structure_that_is_lost_fails_by_its_dice_alone():
    theirs = window(foreground=100, logit=0.02)
    ours = np.where(theirs > 0, np.float32(-0.02), theirs)
    rest = [np.full(SHAPE, -1.0, np.float32)] * 99
    row = measured([ours, *rest], [theirs, *rest], precision="fp16")
    assert row.labels_decided == pytest.approx(1e-3) and row.relative <= row.limit_relative
    assert row.dice == 0.0 and not row.passed


def test_dice_is_the_mean_over_structures_large_enough_to_say():
    theirs = np.full((1, 3, 1000), -1.0, np.float32)
    theirs[:, 0, :100] = theirs[:, 1, 200:400] = theirs[:, 2, 500:510] = 1.0
    ours = theirs.copy()
    ours[:, 0, 100:150] = 1.0  # 2 * 100 / 250
    ours[:, 2, 500:510] = -1.0  # ten voxels do not count
    shape = (1, 3, 10, 10, 10)
    row = measured(ours.reshape(shape), theirs.reshape(shape))
    assert row.dice == pytest.approx((0.8 + 1.0) / 2)
    assert measured(window(foreground=63), window(foreground=63)).dice is None
    assert measured(window(foreground=0), window(foreground=64)).dice == 0.0


def test_nan_and_another_shape_never_pass():
    nan = window() * np.float32("nan")
    row = measured(nan, window(), precision="int8")
    assert not row.passed and np.isfinite([row.max_abs, row.max_rel]).all()
    zero = np.zeros(SHAPE, np.float32)
    assert measured(zero, zero).passed and not measured(zero + np.float32(1e-6), zero).passed
    with pytest.raises(
        ParityError, match=r"^the output of a differs in shape from that of b; received \(1, 1, 10, 10, 9\)"
    ):
        measured(window()[..., :9], window())


def test_labels_are_background_or_the_largest_positive_logit():
    logits = np.array([[-1.0, 2.0, -0.5, 0.0], [-2.0, 1.0, 3.0, -1.0]], np.float32).reshape(1, 2, 4, 1, 1)
    assert label_map(logits).ravel().tolist() == [0, 1, 2, 0]
    assert lead(logits).ravel().tolist() == [1.0, 1.0, 3.0, 0.0]


@pytest.mark.parametrize("prompts", [1, 3])
def test_no_change_below_half_the_lead_turns_a_label(prompts):
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(1, prompts, 8, 8, 8)).astype(np.float32)
    change = rng.uniform(-0.499, 0.499, logits.shape).astype(np.float32) * lead(logits)[:, None]
    assert (label_map(logits + change) == label_map(logits)).all()


def test_the_limits_are_those_of_the_decision():
    table = {name: (t.relative, t.band, t.labels, t.dice) for name, t in LIMITS.items()}
    assert table == {
        "fp32": (5e-3, 1e-3, 2e-5, 0.99),
        "fp16": (5e-2, 1e-3, 2e-3, 0.98),
        "bf16": (1.5e-1, 1e-3, 5e-3, 0.97),
        "int8": (2.5e-1, 1e-3, 1e-2, 0.95),
    }
    assert (PYTORCH.relative, PYTORCH.band, PYTORCH.labels, PYTORCH.dice) == (1e-4, 2e-4, 0.0, 0.999)
    assert (HALF_WEIGHTS.relative, HALF_WEIGHTS.labels) == (2e-2, 1e-3)


def test_a_row_is_described_beside_its_limits():
    row = measured(window(foreground=98), window())
    assert describe(row) == "relative difference 2, decided labels changed 0.2000 %, Dice 0.9899"
    assert describe_limits(row) == "at most 0.005, 0.002 %, at least 0.99"
