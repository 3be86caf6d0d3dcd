"""Measure the difference between the logits of two graphs (values, labels, Dice), and define its limits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.bundles.manifest import ParityRow
from gcis_runtime.choices import Precision
from gcis_runtime.errors import ParityError

Logits = NDArray[np.float32]
"""Foreground minus background logit per prompt: (batch, prompts, X, Y, Z)."""

DICE_VOXELS = 64
"""Smaller structures are left out of the Dice: below 64 voxels, one voxel changes it by more than 1 %."""

_UNBOUNDED = float(np.finfo(np.float32).max)  # recorded for a NaN difference: JSON has no NaN


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """Limits of a comparison, derived from the measurements in `docs/decisions/0030-parity-limits.md`.

    Attributes:
        relative: Upper limit on the largest difference within a window, divided by the largest absolute value
            of the reference in that window.
        band: Voxels whose label in the reference leads by at most this share of the window's largest absolute
            value are undecided: rounding may change their label, so they do not count as changed.
        labels: Upper limit on the share of voxels that are decided in the reference and change their label.
        dice: Lower limit on the mean Dice between the two label maps.
    """

    relative: float
    band: float
    labels: float
    dice: float


PYTORCH = Tolerance(relative=1e-4, band=2e-4, labels=0.0, dice=0.999)
"""float32 in PyTorch with another order of summation: 1e-5 measured, 2e-6 from float64."""

HALF_WEIGHTS = Tolerance(relative=2e-2, band=1e-3, labels=1e-3, dice=0.98)
"""Weights rounded to float16, float32 arithmetic: 4e-3 measured."""

LIMITS: dict[Precision, Tolerance] = {
    # Engines compute mean and variance of instance norms in float32 in one pass: 2e-4 (ONNX Runtime) and
    # 2e-3 (OpenVINO) measured.
    "fp32": Tolerance(relative=5e-3, band=1e-3, labels=2e-5, dice=0.99),
    "fp16": Tolerance(relative=5e-2, band=1e-3, labels=2e-3, dice=0.98),
    # 8-bit mantissas: logits of single voxels at borders change by a tenth of the range, while labels rarely
    # change.
    "bf16": Tolerance(relative=1.5e-1, band=1e-3, labels=5e-3, dice=0.97),
    "int8": Tolerance(relative=2.5e-1, band=1e-3, labels=1e-2, dice=0.95),
}
"""Limits of a graph or engine, by the precision that it computes in."""


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
    """Measure the differences between two sets of logits over all windows.

    Args:
        stage: Name of the compared graph or engine.
        answers: Logits of `stage`, one array (batch, prompts, X, Y, Z) per window.
        reference: Name of the reference.
        expected: Logits of the reference, of the same shapes.
        precision: Precision that `stage` computes in.
        tolerance: Limits.
        graph: ONNX file that `stage` ran; empty for PyTorch.

    Raises:
        ParityError: The shapes differ.
    """
    worst = worst_share = scale = 0.0
    counts = _Counts(prompts=expected[0].shape[1])
    for ours, theirs in zip(answers, expected, strict=True):
        if ours.shape != theirs.shape:
            raise ParityError(
                f"the output of {stage} differs in shape from that of {reference}",
                received=str(ours.shape),
                expected=str(theirs.shape),
                fix="No bundle was written; export the checkpoint again, and report this if it persists.",
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
    """Return the measured values of a comparison as text."""
    dice = "no Dice" if row.dice is None else f"Dice {row.dice:.4f}"
    return f"relative difference {row.relative:.3g}, decided labels changed {100 * row.decided:.4f} %, {dice}"


def describe_limits(row: ParityRow) -> str:
    """Return the limits of a comparison as text, in the order of `describe`."""
    labels, dice = f"{100 * row.tolerance_labels:g} %", f"{row.tolerance_dice or 0:g}"
    return f"at most {row.limit_relative:.3g}, {labels}, at least {dice}"


def label_map(logits: Logits) -> NDArray[np.intp]:
    """Return labels (batch, X, Y, Z): 0 where no logit is positive, else 1 + the channel of the largest."""
    best: NDArray[np.intp] = logits.argmax(axis=1) + 1
    return np.where(logits.max(axis=1) > 0, best, 0)


def lead(logits: Logits) -> NDArray[np.float32]:
    """Return the lead of each voxel's label over the runner-up: (batch, X, Y, Z); background has logit 0.

    Changing every logit by less than half of the lead cannot change the label.
    """
    with_background = np.concatenate([np.zeros_like(logits[:, :1]), logits], axis=1)
    top = np.partition(with_background, -2, axis=1)[:, -2:]
    out: NDArray[np.float32] = top[:, 1] - top[:, 0]
    return out


class _Counts:
    """Accumulate the agreement between two series of label maps."""

    def __init__(self, *, prompts: int) -> None:
        self.voxels = self.changed = self.changed_decided = self.undecided = 0
        self._ours, self._theirs, self._both = (np.zeros(prompts + 1, np.int64) for _ in range(3))

    def add(self, ours: NDArray[Any], theirs: NDArray[Any], *, decided: NDArray[np.bool_]) -> None:
        """Add the label maps of a window; `decided` marks the voxels that are decided in the second map."""
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
        """Return the mean Dice over structures of at least `DICE_VOXELS` voxels in either map, or None."""
        total = (self._ours + self._theirs)[1:]
        large = np.maximum(self._ours, self._theirs)[1:] >= DICE_VOXELS
        if not large.any():
            return None
        return float((2 * self._both[1:][large] / total[large]).mean())
