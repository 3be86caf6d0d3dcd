"""Wrap the ONNX graph of a MONAI bundle as a `torch.nn.Module` that runs in ONNX Runtime.

This file is copied into `scripts/` of the MONAI bundle; it requires PyTorch and ONNX Runtime, but not gCIS.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnxruntime as ort
import torch
from torch import Tensor, nn


class OnnxNetwork(nn.Module):
    """ONNX graph with one input and one output of static shape and batch size 1.

    Args:
        file: ONNX file.
    """

    def __init__(self, file: str) -> None:
        super().__init__()
        self.file = file
        self._sessions: dict[str, ort.InferenceSession] = {}

    def forward(self, window: Tensor) -> Tensor:
        """Map windows (B, 1, X, Y, Z) to logits (B, prompts, X, Y, Z) on the same device, window by window.

        Raises:
            RuntimeError: The windows are on a GPU that ONNX Runtime cannot use.
        """
        session = self._session(window.device)
        (image,), (logits,) = session.get_inputs(), session.get_outputs()
        values = np.ascontiguousarray(torch.as_tensor(window).detach().cpu().numpy(), dtype=np.float32)
        parts = [session.run([logits.name], {image.name: item[None]})[0] for item in values]
        return torch.from_numpy(np.concatenate(parts)).to(window.device)

    def _session(self, device: torch.device) -> ort.InferenceSession:
        """Return the session of a device, creating it on first use."""
        key = str(device)
        if key not in self._sessions:
            cuda = ("CUDAExecutionProvider", {"device_id": device.index or 0})
            providers = [cuda, "CPUExecutionProvider"] if device.type == "cuda" else ["CPUExecutionProvider"]
            session = ort.InferenceSession(self.file, providers=providers)
            if device.type == "cuda" and session.get_providers()[0] != cuda[0]:
                raise RuntimeError(
                    "ONNX Runtime cannot use the GPU: install onnxruntime-gpu, or run with --device cpu"
                )
            self._sessions[key] = session
        return self._sessions[key]


def logits_to_labels(logits: Tensor, values: Sequence[int]) -> Tensor:
    """Convert logits (P, X, Y, Z) to a label map (1, X, Y, Z).

    Args:
        logits: Foreground minus background logit per structure.
        values: Label map value per structure.

    Returns:
        0 where no logit is positive, else the value of the structure with the largest logit.
    """
    best, channel = logits.max(dim=0, keepdim=True)
    table = torch.as_tensor(values, dtype=logits.dtype, device=logits.device)
    return torch.where(best > 0, table[torch.as_tensor(channel)], torch.zeros_like(best))
