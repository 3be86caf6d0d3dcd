"""Check whether an engine of a bundle runs on a GPU with the installed TensorRT."""

from __future__ import annotations

import re

from gcis_runtime.bundles.manifest import Engine
from gcis_runtime.engines.gpu.probe import Gpu
from gcis_runtime.engines.tensorrt.family import Family


def misfit(engine: Engine, family: Family, *, version: str, gpu: Gpu) -> str | None:
    """Return the reason why an engine cannot run; None if it can.

    Args:
        engine: The engine's entry in the manifest.
        family: TensorRT family of the engine.
        version: Installed version of TensorRT.
        gpu: The GPU.
    """
    if not family.serves(gpu.capability):
        return f"{family.product} does not support {gpu.name} ({gpu.sm})"
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
    """Return whether a release can run an engine: the same, or a later one if it is version-compatible."""
    if engine.backend_version == version:
        return True
    if engine.settings.get("version_compatible") != "yes":
        return False
    built, here = (_numbers(text) for text in (engine.backend_version, version))
    return built[:1] == here[:1] and built <= here


def _covers(device: str, gpu: Gpu) -> bool:
    """Return whether `device` includes a GPU: `sm_89`, a list `sm_86,sm_89`, or `sm_80+` and later."""
    if device.endswith("+"):
        return gpu.capability >= _capability(device[:-1])
    return gpu.capability in [_capability(name) for name in device.split(",")]


def _capability(name: str) -> tuple[int, int]:
    match = re.fullmatch(r"sm_(\d+)(\d)", name)
    return (int(match[1]), int(match[2])) if match else (0, 0)


def _numbers(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]
