"""Define the messages between the command and the process that measures."""

from __future__ import annotations

import msgspec

from gcis_runtime.engines.onnx.cuda_settings import CudaSettings

COMMAND = ("-m", "gcis_runtime.pipeline.trial")
"""Arguments of the interpreter that measure a task, which is read from standard input."""
READY = "ready"
"""Line that the process prints when the plain settings work; one JSON `Outcome` per line follows."""


class Task(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a process measures.

    Attributes:
        bundle: Folder of the bundle.
        sha256: Hash of its manifest.
        device: `"cuda"` or `"cuda:1"`.
        precision: `"fp32"` or `"fp16"`.
        plain: The plain settings, which the others are compared with.
        candidates: The settings to measure, in this order.
        seconds: Time after which no further settings are measured.
    """

    bundle: str
    sha256: str
    device: str
    precision: str
    plain: CudaSettings
    candidates: tuple[CudaSettings, ...]
    seconds: float
