"""Whether an engine of a bundle runs on a GPU with the TensorRT that is installed."""

from __future__ import annotations

import re

from gcis_runtime.bundles.manifest import Engine
from gcis_runtime.engines.gpu.probe import Gpu
from gcis_runtime.engines.tensorrt.family import Family


def misfit(engine: Engine, family: Family, *, version: str, gpu: Gpu) -> str | None:
    """Return why an engine does not run here; None when it does.

    Args:
        engine: The engine.
        family: Its TensorRT family.
        version: Installed version.
        gpu: The GPU.
    """
    if not family.serves(gpu.capability):
        return f"{family.product} has no code for {gpu.name} ({gpu.sm})"
    if not _same_release(engine, version):
        return f"it was built by {family.product} {engine.backend_version}, {version} is installed"
    if not _covers(engine.device, gpu):
        return f"it was built for {engine.device}, {gpu.name} is {gpu.sm}"
    exact = engine.settings.get("hardware_compatibility") == "none"
    built_on = engine.settings.get("gpu", gpu.name)
    if exact and built_on != gpu.name:
        return f"it was built on {built_on}, and this is {gpu.name}"
    return None


def _same_release(engine: Engine, version: str) -> bool:
    """Engines run under the release that built them, version-compatible ones under later ones too."""
    if engine.backend_version == version:
        return True
    if engine.settings.get("version_compatible") != "yes":
        return False
    built, here = (_numbers(text) for text in (engine.backend_version, version))
    return built[:1] == here[:1] and built <= here


def _covers(device: str, gpu: Gpu) -> bool:
    """`sm_89` is that capability, `sm_86,sm_89` any of these, `sm_80+` that and later ones."""
    if device.endswith("+"):
        return gpu.capability >= _capability(device[:-1])
    return gpu.capability in [_capability(name) for name in device.split(",")]


def _capability(name: str) -> tuple[int, int]:
    match = re.fullmatch(r"sm_(\d+)(\d)", name)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]
