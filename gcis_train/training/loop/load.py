"""Measure windows per second and peak memory of an epoch."""

from __future__ import annotations

import time
from typing import Any

import torch

from gcis_runtime.system.memory import peak_memory_bytes
from gcis_train.training.distributed import Processes
from gcis_train.training.objectives import Batch


class Load:
    """Windows per second of an epoch, and peak memory.

    Args:
        device: Device of the training.
        processes: Processes of the training.
    """

    def __init__(self, device: torch.device, processes: Processes) -> None:
        self._device, self._processes = device, processes
        self._windows, self._seconds, self._since = 0, 0.0, 0.0

    def begin(self) -> None:
        """Start an epoch."""
        self._windows, self._seconds, self._since = 0, 0.0, time.monotonic()

    def add(self, batch: Batch) -> None:
        """Count the windows of a step that has just ended."""
        self._windows += len(batch.names)
        self._seconds = time.monotonic() - self._since

    def record(self) -> dict[str, Any]:
        """Return the values for the epoch's metrics: windows of all processes, memory of this one.

        Memory is that of the GPU on CUDA, otherwise of the process.

        Raises:
            ProcessError: Another process has ended.
        """
        count = torch.tensor(float(self._windows), dtype=torch.float64, device=self._device)
        windows = float(self._processes.add(count))
        cuda = self._device.type == "cuda"
        peak = torch.cuda.max_memory_allocated(self._device) if cuda else peak_memory_bytes()
        result: dict[str, Any] = {}
        if self._seconds > 0:
            result["windows_per_second"] = round(windows / self._seconds, 2)
        if peak is not None:
            result["peak_memory_gb"] = round(peak / 1e9, 3)
        return result
