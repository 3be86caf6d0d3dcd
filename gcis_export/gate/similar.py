"""Find prompts whose logits are nearly equal on the windows of the parity gate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gcis_export.gate.check_windows import Window
from gcis_runtime.engines.parity import Logits

SIMILAR = 0.99
"""Correlation from which a note calls the masks of two prompts nearly equal. Prompts with different pathways
and the same mask have 0.997 to 0.999; prompts that training has separated have 0.45 to 0.66."""


@dataclass(frozen=True, kw_only=True)
class SimilarPair:
    """Two prompts and the Pearson correlation of their logits."""

    first: str
    second: str
    correlation: float


def similar_logits(
    windows: Sequence[Window], answers: Sequence[Logits], prompts: Sequence[str], *, limit: float = SIMILAR
) -> tuple[SimilarPair, ...]:
    """Return the pairs of prompts whose logits correlate at least by `limit`.

    Constant windows are left out: they show no structure.

    Args:
        windows: Preprocessed windows (1, 1, X, Y, Z).
        answers: Logits (1, P, X, Y, Z) per window.
        prompts: The P prompts.
        limit: Smallest correlation to report.
    """
    shown = [a for w, a in zip(windows, answers, strict=True) if float(w.min()) < float(w.max())]
    if not shown or len(prompts) < 2:
        return ()
    flat = np.concatenate([a[0].reshape(len(prompts), -1) for a in shown], axis=1).astype(np.float64)
    flat -= flat.mean(axis=1, keepdims=True)
    norms = np.linalg.norm(flat, axis=1)
    norms[norms == 0] = np.inf  # constant logits correlate with nothing
    matrix = (flat @ flat.T) / np.outer(norms, norms)
    return tuple(
        SimilarPair(first=prompts[i], second=prompts[j], correlation=float(matrix[i, j]))
        for i in range(len(prompts))
        for j in range(i + 1, len(prompts))
        if matrix[i, j] >= limit
    )


def describe_similar(pairs: Sequence[SimilarPair]) -> tuple[str, ...]:
    """Return one line per pair."""
    return tuple(
        f"{pair.first!r} and {pair.second!r} have nearly the same mask: "
        f"their logits correlate by {pair.correlation:.4f}"
        for pair in pairs
    )
