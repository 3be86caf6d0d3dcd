"""The parity gate: every graph against the network it was made from, on the same windows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from gcis_export.check_windows import Window
from gcis_export.compare import (
    HALF_WEIGHTS,
    LIMITS,
    PYTORCH,
    Logits,
    Tolerance,
    compare,
    describe,
    describe_limits,
)
from gcis_export.graph.network import ExportNet
from gcis_export.resolve import Resolution
from gcis_runtime.bundles.manifest import ParityRow, Precision
from gcis_runtime.errors import ParityError
from gcis_train.nets.decoder import foreground_logit

ROUTED, STATIC, EXPORT_MODEL = "PyTorch routed", "PyTorch static", "export graph in PyTorch"
ROUNDED = "16-bit weights in PyTorch"

UNTRAINED = 0.01
"""Share of undecided voxels from which the network is said to look untrained; a trained one leaves 0.0003."""


@dataclass(eq=False)
class Gate:
    """Comparisons on fixed windows, and what they gave.

    Attributes:
        windows: What every graph is run on.
        rows: The report so far.
    """

    windows: Sequence[Window]
    rows: list[ParityRow] = field(default_factory=list)

    def answers(self, run: Callable[[Window], Logits]) -> list[Logits]:
        """Run a graph on every window; copies, since engines reuse their output."""
        return [np.array(run(window), dtype=np.float32) for window in self.windows]

    def check(
        self,
        stage: str,
        answers: Sequence[Logits],
        *,
        reference: str,
        expected: Sequence[Logits],
        precision: Precision = "fp32",
        graph: str = "",
        tolerance: Tolerance | None = None,
        required: bool = True,
    ) -> ParityRow:
        """Compare a graph's answers with its reference's and note the result.

        Args:
            stage: What is compared.
            answers: Its logits on each window.
            reference: What it is compared with.
            expected: The reference's logits.
            precision: What `stage` computes in.
            graph: The ONNX file that it ran; empty for PyTorch.
            tolerance: Limits; None takes those of the precision.
            required: Raise when a limit is exceeded.

        Raises:
            ParityError: Another shape, or a required comparison failed; names the stage.
        """
        row = compare(
            stage,
            answers,
            reference,
            expected,
            precision=precision,
            graph=graph,
            tolerance=tolerance or LIMITS[precision],
        )
        self.rows.append(row)
        if required and not row.passed:
            raise ParityError(
                f"{stage} does not give the answers of {reference}",
                received=describe(row),
                expected=describe_limits(row),
                fix="No bundle was written; the stage named first is the one that broke: "
                "docs/how-to/debug_accuracy.md goes on from here.",
            )
        return row

    def remarks(self) -> tuple[str, ...]:
        """Say what the windows could not show."""
        found = []
        if not self.rows:
            return ()
        if all(row.dice is None for row in self.rows):
            found.append(
                "no structure appears in the windows that were compared, so no Dice could be taken: "
                "give cases that show them with --check"
            )
        undecided = max(row.undecided for row in self.rows)
        if undecided >= UNTRAINED:
            found.append(
                f"the network leaves {100 * undecided:.1f} % of voxels undecided: it looks untrained, "
                "and low precision will turn their labels"
            )
        return tuple(found)


def check_networks(gate: Gate, resolution: Resolution, export_model: ExportNet) -> list[Logits]:
    """Compare routed, static and exportable network in PyTorch; return the static network's logits.

    Raises:
        ParityError: One of them differs.
    """
    static = gate.answers(lambda w: _torch(resolution.network, w))
    if resolution.routed is not None:
        routed = gate.answers(lambda w: _routed(resolution, w))
        gate.check(STATIC, static, reference=ROUTED, expected=routed, tolerance=PYTORCH)
    answers = gate.answers(lambda w: _torch(export_model, w))
    gate.check(EXPORT_MODEL, answers, reference=STATIC, expected=static, tolerance=PYTORCH)
    return static


def check_rounding(gate: Gate, export_model: ExportNet, static: Sequence[Logits]) -> list[Logits]:
    """Compare a export_model whose weights were rounded with the static network; return its logits.

    Raises:
        ParityError: Rounding changes too much.
    """
    rounded = gate.answers(lambda w: _torch(export_model, w))
    gate.check(ROUNDED, rounded, reference=STATIC, expected=static, tolerance=HALF_WEIGHTS)
    return rounded


def _torch(network: torch.nn.Module, window: Window) -> Logits:
    with torch.no_grad():
        out: Logits = network(torch.from_numpy(window)).numpy()
    return out


def _routed(resolution: Resolution, window: Window) -> Logits:
    """Return the routed network's logits; the encoder, which no prompt changes, runs once."""
    net = resolution.routed
    if net is None:
        raise ValueError("a static checkpoint has no routed network")
    with torch.no_grad():
        features = net.encoder(torch.from_numpy(window))
        parts = [foreground_logit(net.decoder(features, choice.pathway)) for choice in resolution.choices]
        out: Logits = torch.cat(parts, dim=1).numpy()
    return out
