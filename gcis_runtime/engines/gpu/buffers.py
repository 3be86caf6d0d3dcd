"""A graph's fixed buffers on a GPU, and the way there and back for windows on the host."""

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
    """Input and output of a graph at addresses that never change, as CUDA graphs and bindings need.

    Args:
        device: The GPU.
        manifest: The bundle's manifest: shapes of one window.
        batch: Windows a run.

    Attributes:
        stream: Where everything is queued.
        input: (batch, 1, X, Y, Z) float32.
        output: (batch, C, X, Y, Z) float32.
        input_shape: Its shape.
        output_shape: Its shape.

    Raises:
        DeviceMemoryError: The GPU has not enough memory.
    """

    def __init__(self, device: Device, manifest: Manifest, *, batch: int) -> None:
        self._device = device
        self.input_shape = (batch, *manifest.input.shape[1:])
        self.output_shape = (batch, *manifest.output.shape[1:])
        self.stream: Any = device.stream()
        size, answer = (int(np.prod(s)) * FLOAT32_BYTES for s in (self.input_shape, self.output_shape))
        self.input, self.output = device.allocate(size), device.allocate(answer)
        self._there, self._back = device.pinned(size), device.pinned(answer)

    def run(self, windows: NDArray[np.float32], enqueue: Callable[[], None]) -> NDArray[np.float32]:
        """Copy windows in, run, and copy their answers out; see `Session.run`."""
        count, batch = len(windows), self.input_shape[0]
        if count > batch or windows.shape[1:] != self.input_shape[1:]:
            raise EngineError(
                "the windows have another shape than the graph",
                received=str(windows.shape),
                expected=f"at most {self.input_shape}",
            )
        self._device.activate()
        self._there.view(windows.shape, np.float32)[...] = windows
        self._device.upload(self.input, self._there.address, windows.size * FLOAT32_BYTES, self.stream)
        enqueue()
        size = self.output.bytes // batch * count
        self._device.download(self._back.address, self.output, size, self.stream)
        self._device.finish(self.stream)
        answer: NDArray[np.float32] = self._back.view((count, *self.output_shape[1:]), np.float32)
        return answer
