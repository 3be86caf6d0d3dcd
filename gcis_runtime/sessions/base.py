"""What every engine offers, and the check that it holds the graph that the manifest describes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.errors import BundleError
from gcis_runtime.manifest import Manifest


class Session(Protocol):
    """A graph loaded into an engine.

    Attributes:
        name: Engine: `"onnx"`, `"openvino"`, …
        version: The engine's version.
        device: `"cpu"` or `"cuda:0"`.
        precision: `"fp32"`, `"bf16"`, …
        threads: CPU threads; 0 on other devices.
    """

    name: str
    version: str
    device: str
    precision: str
    threads: int

    def run(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute one window.

        Args:
            window: (1, 1, X, Y, Z), contiguous, pre-processed.

        Returns:
            (1, C, X, Y, Z): foreground minus background logit of each structure. Valid until the next run.
        """
        ...

    def close(self) -> None:
        """Free the engine; the session cannot run any more."""
        ...


def check_graph(
    manifest: Manifest, *, inputs: dict[str, Sequence[object]], outputs: dict[str, Sequence[object]]
) -> None:
    """Compare a loaded graph's tensors with the manifest.

    Args:
        manifest: What should be there.
        inputs: Shape of each input by name, as the engine reports it.
        outputs: Shape of each output by name.

    Raises:
        BundleError: Another name or shape.
    """
    for kind, found, tensor in (("input", inputs, manifest.input), ("output", outputs, manifest.output)):
        if {name: tuple(shape) for name, shape in found.items()} != {tensor.name: tensor.shape}:
            raise BundleError(
                f"the graph's {kind} is not the one that the manifest describes",
                received=", ".join(f"{name} {tuple(shape)}" for name, shape in found.items()) or "none",
                expected=f"{tensor.name} {tensor.shape}",
                fix="Export the bundle again.",
            )
