"""The parity gate: every graph against the network it was made from, on the same windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from gcis_export.check_windows import Window
from gcis_export.graph.network import ExportNet
from gcis_export.resolve import Resolution
from gcis_runtime.errors import ParityError
from gcis_runtime.manifest import ParityRow, Precision
from gcis_train.nets.decoder import margin

Margins = NDArray[np.float32]
"""(1, prompts, X, Y, Z): foreground minus background logit of each prompt."""

ROUTED, STATIC, TWIN = "PyTorch routed", "PyTorch static", "export graph in PyTorch"
ROUNDED = "16-bit weights in PyTorch"

_UNBOUNDED = float(np.finfo(np.float32).max)  # what a NaN difference is recorded as: JSON has no NaN


@dataclass(frozen=True, kw_only=True)
class Tolerance:
    """Limits of a comparison.

    Attributes:
        relative: On the largest difference, as a share of the reference's largest absolute value.
        labels: On the share of voxels whose label changes.
    """

    relative: float
    labels: float


EXACT = Tolerance(relative=1e-3, labels=5e-4)
"""float32 against float32: sums in another order. A trained network changes 1 label in a million; one with
random weights, whose margins lie around zero everywhere, up to 2 in ten thousand."""

HALF_WEIGHTS = Tolerance(relative=2e-2, labels=5e-3)
"""Weights rounded to 11 bits, float32 arithmetic."""

BF16 = Tolerance(relative=1.5e-1, labels=5e-3)
"""8-bit mantissas throughout: single voxels at borders move by a tenth of the range, labels hardly."""


@dataclass(eq=False)
class Gate:
    """Comparisons on fixed windows, and what they gave.

    Attributes:
        windows: What every graph is run on.
        rows: The report so far.
    """

    windows: Sequence[Window]
    rows: list[ParityRow] = field(default_factory=list)

    def answers(self, run: Callable[[Window], Margins]) -> list[Margins]:
        """Run a graph on every window; copies, since engines reuse their output."""
        return [np.array(run(window), dtype=np.float32) for window in self.windows]

    def check(
        self,
        stage: str,
        answers: Sequence[Margins],
        *,
        reference: str,
        expected: Sequence[Margins],
        precision: Precision = "fp32",
        tolerance: Tolerance = EXACT,
        required: bool = True,
    ) -> ParityRow:
        """Compare a graph's answers with its reference's and note the result.

        Args:
            stage: What is compared.
            answers: Its margins on each window.
            reference: What it is compared with.
            expected: The reference's margins.
            precision: What `stage` computes in.
            tolerance: Limits.
            required: Raise when a limit is exceeded.

        Raises:
            ParityError: Another shape, or a required comparison failed; names the stage.
        """
        row = compare(stage, answers, reference, expected, precision=precision, tolerance=tolerance)
        self.rows.append(row)
        if required and not row.passed:
            raise ParityError(
                f"{stage} does not give the answers of {reference}",
                received=f"difference {row.max_abs:.3g}, {100 * row.labels_changed:.4f} % of labels changed",
                expected=f"at most {row.tolerance_abs:.3g} and {100 * row.tolerance_labels:.4f} %",
                fix="No bundle was written; the stage named first is the one that broke.",
            )
        return row


def compare(
    stage: str,
    answers: Sequence[Margins],
    reference: str,
    expected: Sequence[Margins],
    *,
    precision: Precision,
    tolerance: Tolerance,
) -> ParityRow:
    """Measure how far margins lie apart, over all windows.

    Raises:
        ParityError: A shape differs.
    """
    worst, scale, changed, voxels = 0.0, 0.0, 0, 0
    for ours, theirs in zip(answers, expected, strict=True):
        if ours.shape != theirs.shape:
            raise ParityError(
                f"{stage} gives another shape than {reference}",
                received=str(ours.shape),
                expected=str(theirs.shape),
                fix="No bundle was written.",
            )
        gap = float(np.abs(ours - theirs).max())
        worst = max(worst, gap if np.isfinite(gap) else _UNBOUNDED)
        scale = max(scale, float(np.abs(theirs).max()))
        a, b = label_map(ours), label_map(theirs)
        changed += int(np.count_nonzero(a != b))
        voxels += a.size
    return ParityRow(
        stage=stage,
        reference=reference,
        precision=precision,
        windows=len(expected),
        max_abs=worst,
        scale=scale,
        labels_changed=changed / voxels,
        tolerance_abs=tolerance.relative * scale,
        tolerance_labels=tolerance.labels,
    )


def label_map(margins: Margins) -> NDArray[np.intp]:
    """Return 0 for background, else 1 + the channel of the largest positive margin: (1, X, Y, Z)."""
    best: NDArray[np.intp] = margins.argmax(axis=1) + 1
    return np.where(margins.max(axis=1) > 0, best, 0)


def check_networks(gate: Gate, resolution: Resolution, twin: ExportNet) -> list[Margins]:
    """Compare routed, static and exportable network in PyTorch; return the static network's margins.

    Raises:
        ParityError: One of them differs.
    """
    static = gate.answers(lambda w: _torch(resolution.network, w))
    if resolution.routed is not None:
        routed = gate.answers(lambda w: _routed(resolution, w))
        gate.check(STATIC, static, reference=ROUTED, expected=routed)
    gate.check(TWIN, gate.answers(lambda w: _torch(twin, w)), reference=STATIC, expected=static)
    return static


def check_rounding(gate: Gate, twin: ExportNet, static: Sequence[Margins]) -> list[Margins]:
    """Compare a twin whose weights were rounded with the static network; return its margins.

    Raises:
        ParityError: Rounding changes too much.
    """
    rounded = gate.answers(lambda w: _torch(twin, w))
    gate.check(ROUNDED, rounded, reference=STATIC, expected=static, tolerance=HALF_WEIGHTS)
    return rounded


def _torch(network: torch.nn.Module, window: Window) -> Margins:
    with torch.no_grad():
        out: Margins = network(torch.from_numpy(window)).numpy()
    return out


def _routed(resolution: Resolution, window: Window) -> Margins:
    """Return the routed network's margins; the encoder, which no prompt changes, runs once."""
    net = resolution.routed
    if net is None:
        raise ValueError("a static checkpoint has no routed network")
    with torch.no_grad():
        features = net.encoder(torch.from_numpy(window))
        parts = [margin(net.decoder(features, choice.pathway)) for choice in resolution.choices]
        out: Margins = torch.cat(parts, dim=1).numpy()
    return out
