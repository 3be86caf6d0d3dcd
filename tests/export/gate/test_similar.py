"""Prompts with nearly equal logits are found, whatever their pathways."""

from __future__ import annotations

import numpy as np
import pytest

from gcis_export.gate.similar import describe_similar, similar_logits


def test_pairs_above_the_limit_are_named_with_their_correlation() -> None:
    rng = np.random.default_rng(0)
    windows = [rng.random((1, 1, 8, 8, 8), dtype=np.float32) for _ in range(2)]
    base = [rng.standard_normal((8, 8, 8)) for _ in windows]
    noise = [rng.standard_normal((8, 8, 8)) for _ in windows]
    answers = [
        np.stack([b, 3 * b - 5 + 0.1 * n, -b, n])[None].astype(np.float32)
        for b, n in zip(base, noise, strict=True)
    ]
    pairs = similar_logits(windows, answers, ["a", "b", "c", "d"])
    assert [(p.first, p.second) for p in pairs] == [("a", "b")]
    expected = np.corrcoef(np.ravel([a[0, 0] for a in answers]), np.ravel([a[0, 1] for a in answers]))[0, 1]
    assert pairs[0].correlation == pytest.approx(expected, abs=1e-6) and expected > 0.99
    assert describe_similar(pairs) == (
        f"'a' and 'b' have nearly the same mask: their logits correlate by {expected:.4f}",
    )
    assert similar_logits(windows, answers, "abcd", limit=0.9999) == ()


def test_constant_windows_and_logits_do_not_count() -> None:
    rng = np.random.default_rng(1)
    constant = np.zeros((1, 1, 4, 4, 4), np.float32)
    equal = np.ones((1, 2, 4, 4, 4), np.float32)
    assert similar_logits([constant], [equal], ["a", "b"]) == ()
    window = rng.random((1, 1, 4, 4, 4), dtype=np.float32)
    assert similar_logits([window], [equal], ["a", "b"]) == ()
    different = rng.standard_normal((1, 2, 4, 4, 4)).astype(np.float32)
    far = 100 * equal  # would make any two prompts correlate
    assert similar_logits([window, constant], [different, far], ["a", "b"]) == ()
