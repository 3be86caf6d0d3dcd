"""Describe the engine that computed a result."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EngineInfo:
    """Name, version, device, precision and CPU threads (0 on other devices) of an engine.

    `reason` says why the precision was selected; empty if the user selected it or there was no choice.
    `settings` says which settings ONNX Runtime uses on a GPU, and why; empty for other engines.
    """

    name: str
    version: str
    device: str
    precision: str
    threads: int
    reason: str = ""
    settings: str = ""

    @property
    def text(self) -> str:
        """One line of text, such as `openvino 2026.4 on cpu, bf16, 2 threads`."""
        threads = f", {self.threads} threads" if self.threads else ""
        return f"{self.name} {self.version} on {self.device}, {self.precision}{threads}"
