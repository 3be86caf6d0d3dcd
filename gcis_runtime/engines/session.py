"""Define the interface of engines, and compare a loaded graph with the manifest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.bundles.manifest import Manifest
from gcis_runtime.errors import BundleError

if TYPE_CHECKING:
    from gcis_runtime.engines.gpu.device import Buffer, Device


class Session(Protocol):
    """A graph loaded into an engine.

    Attributes:
        name: Engine: `"onnx"`, `"openvino"`, …
        version: The engine's version.
        device: `"cpu"` or `"cuda:0"`.
        precision: `"fp32"`, `"bf16"`, …
        threads: CPU threads; 0 on other devices.
        batch: Largest number of windows per run.
        notes: Messages for the user from opening it, such as that an engine was built.
    """

    name: str
    version: str
    device: str
    precision: str
    threads: int
    batch: int
    notes: tuple[str, ...]

    def run(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute a batch of windows.

        Args:
            window: (windows, 1, X, Y, Z), at most `batch` windows, contiguous, pre-processed.

        Returns:
            (windows, C, X, Y, Z): foreground minus background logit of each structure. Valid until the next
            run.
        """
        ...

    def close(self) -> None:
        """Free the engine; the session cannot run afterwards."""
        ...


@runtime_checkable
class DeviceSession(Protocol):
    """A session whose graph reads and writes fixed buffers on a GPU, in order on one stream.

    Every session on a GPU implements both `Session` and `DeviceSession`; blending on the GPU uses the latter.

    Attributes:
        name: As in `Session`.
        device: As in `Session`.
        precision: As in `Session`.
        batch: Windows per run.
        gpu: The GPU.
        stream: CUDA stream on which runs are queued.
        input: (batch, 1, X, Y, Z) float32.
        output: (batch, C, X, Y, Z) float32.
    """

    name: str
    device: str
    precision: str
    batch: int
    gpu: Device
    stream: Any
    input: Buffer
    output: Buffer

    def enqueue(self) -> None:
        """Start one run from `input` to `output` in the stream; it may return before the run has finished."""
        ...


def check_graph(
    manifest: Manifest,
    *,
    inputs: dict[str, Sequence[object]],
    outputs: dict[str, Sequence[object]],
    batch: int = 1,
) -> None:
    """Compare a loaded graph's tensors with the manifest.

    Args:
        manifest: The bundle's manifest.
        inputs: Shape of each input by name, as the engine reports it.
        outputs: Shape of each output by name.
        batch: Windows per run.

    Raises:
        BundleError: A name or shape differs.
    """
    for kind, found, tensor in (("input", inputs, manifest.input), ("output", outputs, manifest.output)):
        expected = (batch, *tensor.shape[1:])
        if {name: tuple(shape) for name, shape in found.items()} != {tensor.name: expected}:
            raise BundleError(
                f"the graph's {kind} is not the one that the manifest describes",
                received=", ".join(f"{name} {tuple(shape)}" for name, shape in found.items()) or "none",
                expected=f"{tensor.name} {expected}",
                fix="Export the bundle again.",
            )
