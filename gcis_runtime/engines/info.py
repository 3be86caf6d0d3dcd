"""Describe the engine that computed a result."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class EngineInfo:
    """The engine that computed: name, version, device, precision, CPU threads (0 on other devices)."""

    name: str
    version: str
    device: str
    precision: str
    threads: int

    @property
    def text(self) -> str:
        """One line for people, such as `openvino 2026.4 on cpu, bf16, 2 threads`."""
        threads = f", {self.threads} threads" if self.threads else ""
        return f"{self.name} {self.version} on {self.device}, {self.precision}{threads}"
