"""Compare every graph with the network that it was exported from, and record the results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from gcis_export.gate.check_windows import Window
from gcis_export.graph.network import ExportNet
from gcis_export.options import Precision
from gcis_export.resolve import Resolution
from gcis_runtime.bundles.manifest import ParityRow
from gcis_runtime.engines.parity import (
    HALF_WEIGHTS,
    LIMITS,
    PYTORCH,
    Logits,
    Tolerance,
    compare,
    describe,
    describe_limits,
)
from gcis_runtime.errors import ParityError
from gcis_train.nets.decoder import foreground_logit

ROUTED, STATIC, EXPORT_MODEL = "PyTorch routed", "PyTorch static", "export graph in PyTorch"
ROUNDED = "16-bit weights in PyTorch"

UNTRAINED = 0.01
"""Share of undecided voxels above which a network is reported as untrained; trained networks: 0.0003."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reference:
    """Logits that a graph or engine is compared with.

    Attributes:
        name: Name of the stage that computed the logits.
        answers: Logits on each window of the gate.
    """

    name: str
    answers: Sequence[Logits]


@dataclass(frozen=True, kw_only=True, eq=False)
class References:
    """References of the parity gate.

    Attributes:
        network: The static network of the checkpoint; low precisions are compared with it.
        exact: The network with the weights as they are stored in the file; float32 engines are compared
            with it. Differs from `network` only if the weights were rounded.
    """

    network: Reference
    exact: Reference


@dataclass(eq=False)
class Gate:
    """Comparisons on a fixed set of windows.

    Attributes:
        windows: Windows that every graph and engine is run on.
        rows: Results so far, in order.
    """

    windows: Sequence[Window]
    rows: list[ParityRow] = field(default_factory=list)

    def answers(self, run: Callable[[Window], Logits]) -> list[Logits]:
        """Run a graph on every window and return copies of its logits, because engines reuse their output."""
        return [np.array(run(window), dtype=np.float32) for window in self.windows]

    def check(
        self,
        stage: str,
        answers: Sequence[Logits],
        reference: Reference,
        *,
        precision: Precision = "fp32",
        graph: str = "",
        tolerance: Tolerance | None = None,
        required: bool = True,
    ) -> ParityRow:
        """Compare logits with a reference and record the result.

        Args:
            stage: Name of the compared graph or engine.
            answers: Logits of `stage`, one array (batch, prompts, X, Y, Z) per array of the reference.
            reference: Logits to compare with.
            precision: Precision that `stage` computes in.
            graph: ONNX file that `stage` ran; empty for PyTorch.
            tolerance: Limits; None uses those of the precision.
            required: Raise if a limit is exceeded.

        Raises:
            ParityError: The shapes differ, or a required comparison failed; the message names the stage.
        """
        row = compare(
            stage,
            answers,
            reference.name,
            reference.answers,
            precision=precision,
            graph=graph,
            tolerance=tolerance or LIMITS[precision],
        )
        self.rows.append(row)
        if required and not row.passed:
            raise ParityError(
                f"{stage} differs from {reference.name}",
                received=describe(row),
                expected=describe_limits(row),
                fix="No bundle was written. The named stage is the first that differs; "
                "docs/how-to/debug_accuracy.md describes how to find the cause.",
            )
        return row

    def remarks(self) -> tuple[str, ...]:
        """Return remarks on properties that the windows cannot verify."""
        found = []
        if not self.rows:
            return ()
        if all(row.dice is None for row in self.rows):
            found.append(
                "no structure appears in the compared windows, so Dice was not computed: "
                "pass cases that contain the structures with --check"
            )
        undecided = max(row.undecided for row in self.rows)
        if undecided >= UNTRAINED:
            found.append(
                f"the network leaves {100 * undecided:.1f} % of voxels undecided: it appears to be "
                "untrained, and low precision will change the labels of these voxels"
            )
        return tuple(found)


def check_networks(gate: Gate, resolution: Resolution, export_model: ExportNet) -> Reference:
    """Compare the routed network, the static network and the export model; return the static logits.

    Raises:
        ParityError: The logits differ.
    """
    static = Reference(name=STATIC, answers=gate.answers(lambda w: _torch(resolution.network, w)))
    if resolution.routed is not None:
        routed = Reference(name=ROUTED, answers=gate.answers(lambda w: _routed(resolution, w)))
        gate.check(STATIC, static.answers, routed, tolerance=PYTORCH)
    answers = gate.answers(lambda w: _torch(export_model, w))
    gate.check(EXPORT_MODEL, answers, static, tolerance=PYTORCH)
    return static


def check_rounding(gate: Gate, export_model: ExportNet, static: Reference) -> Reference:
    """Compare the export model after rounding its weights with the static network; return its logits.

    Raises:
        ParityError: Rounding changes the logits too much.
    """
    rounded = gate.answers(lambda w: _torch(export_model, w))
    gate.check(ROUNDED, rounded, static, tolerance=HALF_WEIGHTS)
    return Reference(name=ROUNDED, answers=rounded)


def _torch(network: torch.nn.Module, window: Window) -> Logits:
    with torch.no_grad():
        out: Logits = network(torch.from_numpy(window)).numpy()
    return out


def _routed(resolution: Resolution, window: Window) -> Logits:
    """Return the logits of the routed network; the encoder does not depend on the prompt and runs once."""
    net = resolution.routed
    if net is None:
        raise ValueError("a static checkpoint has no routed network")
    with torch.no_grad():
        features = net.encoder(torch.from_numpy(window))
        parts = [foreground_logit(net.decoder(features, choice.pathway)) for choice in resolution.choices]
        out: Logits = torch.cat(parts, dim=1).numpy()
    return out
