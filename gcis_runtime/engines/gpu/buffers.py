"""Allocate the input and output buffers of a graph on a GPU, and copy windows to and from the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.bundles.manifest import Manifest
from gcis_runtime.engines.gpu.device import Device
from gcis_runtime.errors import EngineError
from gcis_runtime.spec import FLOAT32_BYTES


class GpuBuffers:
    """Input and output of a graph at fixed addresses, as CUDA graphs and bindings require.

    Args:
        device: The GPU.
        manifest: The bundle's manifest, which has the shapes of a window.
        batch: Windows per run.

    Attributes:
        stream: CUDA stream of copies and runs.
        input: (batch, 1, X, Y, Z) float32.
        output: (batch, C, X, Y, Z) float32.
        input_shape: Shape of `input`.
        output_shape: Shape of `output`.

    Raises:
        DeviceMemoryError: The GPU has too little memory.
    """

    def __init__(self, device: Device, manifest: Manifest, *, batch: int) -> None:
        self._device = device
        self.input_shape = (batch, *manifest.input.shape[1:])
        self.output_shape = (batch, *manifest.output.shape[1:])
        self.stream: Any = device.stream()
        shapes = self.input_shape, self.output_shape
        input_bytes, output_bytes = (int(np.prod(shape)) * FLOAT32_BYTES for shape in shapes)
        self.input, self.output = device.allocate(input_bytes), device.allocate(output_bytes)
        self._pinned_input, self._pinned_output = device.pinned(input_bytes), device.pinned(output_bytes)

    def run(self, windows: NDArray[np.float32], enqueue: Callable[[], None]) -> NDArray[np.float32]:
        """Copy windows to the GPU, run, and copy the logits to the host; see `Session.run`."""
        count, batch = len(windows), self.input_shape[0]
        if count > batch or windows.shape[1:] != self.input_shape[1:]:
            raise EngineError(
                "the windows do not have the shape of the graph's input",
                received=str(windows.shape),
                expected=f"at most {self.input_shape}",
                fix="Pass windows of the bundle's patch size, at most one batch per run.",
            )
        self._device.activate()
        self._pinned_input.view(windows.shape, np.float32)[...] = windows
        self._device.upload(self.input, self._pinned_input.address, windows.size * FLOAT32_BYTES, self.stream)
        enqueue()
        size = self.output.bytes // batch * count
        self._device.download(self._pinned_output.address, self.output, size, self.stream)
        self._device.finish(self.stream)
        logits: NDArray[np.float32] = self._pinned_output.view((count, *self.output_shape[1:]), np.float32)
        return logits
