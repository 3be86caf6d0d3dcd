"""How far two graphs' answers lie apart: values, labels, Dice; and how far they may."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.bundles.manifest import ParityRow, Precision
from gcis_runtime.errors import ParityError

Logits = NDArray[np.float32]
"""(1, prompts, X, Y, Z): foreground minus background logit of each prompt."""

DICE_VOXELS = 64
"""A structure with fewer voxels in all windows together says nothing by its Dice: one voxel is over 1 %."""

_UNBOUNDED = float(np.finfo(np.float32).max)  # what a NaN difference is recorded as: JSON has no NaN


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """Limits of a comparison; `docs/decisions/0030-parity-limits.md` has the measurements behind them.

    Attributes:
        relative: On a window's largest difference, as a share of its reference's largest absolute value.
        band: A voxel whose reference label leads by no more than this share of the largest absolute value
            is undecided: rounding may turn it, and only the others count as changed.
        labels: On the share of voxels whose label changes although the reference was decided.
        dice: Lower limit on the mean Dice between the two label results.
    """

    relative: float
    band: float
    labels: float
    dice: float


PYTORCH = Tolerance(relative=1e-4, band=2e-4, labels=0.0, dice=0.999)
"""float32 in PyTorch, sums in another order: 1e-5 measured, and 2e-6 from float64."""

HALF_WEIGHTS = Tolerance(relative=2e-2, band=1e-3, labels=1e-3, dice=0.98)
"""Weights rounded to 11 bits, float32 arithmetic: 4e-3 measured."""

LIMITS: dict[Precision, Tolerance] = {
    # Engines' instance norms take mean and variance in float32 in one pass: 2e-4 (ONNX Runtime) and
    # 2e-3 (OpenVINO) measured.
    "fp32": Tolerance(relative=5e-3, band=1e-3, labels=2e-5, dice=0.99),
    "fp16": Tolerance(relative=5e-2, band=1e-3, labels=2e-3, dice=0.98),
    # 8-bit mantissas throughout: single voxels at borders move by a tenth of the range, labels hardly.
    "bf16": Tolerance(relative=1.5e-1, band=1e-3, labels=5e-3, dice=0.97),
    "int8": Tolerance(relative=2.5e-1, band=1e-3, labels=1e-2, dice=0.95),
}
"""Limits on a graph or engine, by what it computes in."""


def compare(
    stage: str,
    answers: Sequence[Logits],
    reference: str,
    expected: Sequence[Logits],
    *,
    precision: Precision,
    tolerance: Tolerance,
    graph: str = "",
) -> ParityRow:
    """Measure how far logits lie apart, over all windows.

    Args:
        stage: What is compared.
        answers: Its logits on each window.
        reference: What it is compared with.
        expected: The reference's logits.
        precision: What `stage` computes in.
        tolerance: Limits.
        graph: The ONNX file that `stage` ran; empty for PyTorch.

    Raises:
        ParityError: A shape differs.
    """
    worst = worst_share = scale = 0.0
    counts = _Counts(prompts=expected[0].shape[1])
    for ours, theirs in zip(answers, expected, strict=True):
        if ours.shape != theirs.shape:
            raise ParityError(
                f"{stage} gives another shape than {reference}",
                received=str(ours.shape),
                expected=str(theirs.shape),
                fix="No bundle was written.",
            )
        size = float(np.abs(theirs).max())
        gap = float(np.abs(ours - theirs).max())
        gap = gap if np.isfinite(gap) else _UNBOUNDED
        worst, scale = max(worst, gap), max(scale, size)
        worst_share = max(worst_share, min(gap / size, _UNBOUNDED) if size else (_UNBOUNDED if gap else 0.0))
        counts.add(label_map(ours), label_map(theirs), decided=lead(theirs) > tolerance.band * size)
    return ParityRow(
        stage=stage,
        reference=reference,
        precision=precision,
        graph=graph,
        windows=len(expected),
        max_abs=worst,
        max_rel=worst_share,
        scale=scale,
        labels_changed=counts.changed / counts.voxels,
        labels_decided=counts.changed_decided / counts.voxels,
        undecided=counts.undecided / counts.voxels,
        dice=counts.dice(),
        tolerance_abs=tolerance.relative * scale,
        tolerance_rel=tolerance.relative,
        tolerance_labels=tolerance.labels,
        tolerance_dice=tolerance.dice,
        band=tolerance.band,
    )


def describe(row: ParityRow) -> str:
    """Return what a comparison measured, for a message."""
    dice = "no Dice" if row.dice is None else f"Dice {row.dice:.4f}"
    return f"relative difference {row.relative:.3g}, decided labels changed {100 * row.decided:.4f} %, {dice}"


def describe_limits(row: ParityRow) -> str:
    """Return a comparison's limits, in the order of `describe`."""
    labels, dice = f"{100 * row.tolerance_labels:g} %", f"{row.tolerance_dice or 0:g}"
    return f"at most {row.limit_relative:.3g}, {labels}, at least {dice}"


def label_map(logits: Logits) -> NDArray[np.intp]:
    """Return 0 for background, else 1 + the channel of the largest positive logit: (1, X, Y, Z)."""
    best: NDArray[np.intp] = logits.argmax(axis=1) + 1
    return np.where(logits.max(axis=1) > 0, best, 0)


def lead(logits: Logits) -> NDArray[np.float32]:
    """Return how far each voxel's label is ahead of the next, background counting as logit 0: (1, X, Y, Z).

    A change of every logit by less than half of it cannot change the label.
    """
    with_background = np.concatenate([np.zeros_like(logits[:, :1]), logits], axis=1)
    top = np.partition(with_background, -2, axis=1)[:, -2:]
    out: NDArray[np.float32] = top[:, 1] - top[:, 0]
    return out


class _Counts:
    """Voxels that two label results have in common, added up over windows."""

    def __init__(self, *, prompts: int) -> None:
        self.voxels = self.changed = self.changed_decided = self.undecided = 0
        self._ours, self._theirs, self._both = (np.zeros(prompts + 1, np.int64) for _ in range(3))

    def add(self, ours: NDArray[Any], theirs: NDArray[Any], *, decided: NDArray[np.bool_]) -> None:
        """Add a window's label maps; `decided` says where the second one's labels are not a toss-up."""
        differ = ours != theirs
        self.voxels += ours.size
        self.changed += int(np.count_nonzero(differ))
        self.changed_decided += int(np.count_nonzero(differ & decided))
        self.undecided += ours.size - int(np.count_nonzero(decided))
        length = len(self._ours)
        self._ours += np.bincount(ours.ravel(), minlength=length)
        self._theirs += np.bincount(theirs.ravel(), minlength=length)
        self._both += np.bincount(ours[~differ], minlength=length)

    def dice(self) -> float | None:
        """Return the mean Dice over structures of some size in either result; None where there is none."""
        total = (self._ours + self._theirs)[1:]
        large = np.maximum(self._ours, self._theirs)[1:] >= DICE_VOXELS
        if not large.any():
            return None
        return float((2 * self._both[1:][large] / total[large]).mean())
