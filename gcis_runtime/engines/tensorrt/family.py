"""The two TensorRT families, and their Python modules."""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from gcis_runtime.bundles.manifest import Backend
from gcis_runtime.errors import EngineError

Capability = tuple[int, int]
"""A compute capability (major, minor)."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """One TensorRT family.

    Attributes:
        backend: Its name in a manifest and on the command line.
        product: Its name for people.
        builder: Module that builds and runs.
        runners: Modules that run, in order of preference.
        extra: pip extra that installs it.
        builds_without_gpu: Engines are made on any machine.
        capabilities: GPUs that it serves; None leaves that to the engine.
    """

    backend: Backend
    product: str
    builder: str
    runners: tuple[str, ...]
    extra: str
    builds_without_gpu: bool
    capabilities: tuple[Capability, ...] | None = None

    def serves(self, capability: Capability) -> bool:
        """Tell whether the family has code for a GPU."""
        return self.capabilities is None or capability in self.capabilities


TRT = Family(
    backend="trt",
    product="TensorRT",
    builder="tensorrt",
    runners=("tensorrt", "tensorrt_lean"),
    extra="trt",
    builds_without_gpu=False,
)
TRT_RTX = Family(
    backend="trt-rtx",
    product="TensorRT-RTX",
    builder="tensorrt_rtx",
    runners=("tensorrt_rtx",),
    extra="trt-rtx",
    builds_without_gpu=True,
    # No datacentre GPUs: an H100 (9.0) or B200 (10.0) cannot run its engines.
    capabilities=((7, 5), (8, 0), (8, 6), (8, 9), (12, 0), (12, 1)),
)
FAMILIES: dict[str, Family] = {family.backend: family for family in (TRT, TRT_RTX)}


def load_builder(family: Family) -> Any:
    """Import the module that builds engines.

    Raises:
        EngineError: It is not installed, or its libraries do not load.
    """
    return _load(family, (family.builder,))


def load_runner(family: Family) -> Any:
    """Import the module that runs engines; importing it touches no GPU.

    Raises:
        EngineError: None is installed, or its libraries do not load.
    """
    return _load(family, family.runners)


def installed_version(family: Family) -> str | None:
    """Return the version of the module that would run engines; None without one that loads."""
    try:
        return str(load_runner(family).__version__)
    except EngineError:
        return None


def _load(family: Family, names: tuple[str, ...]) -> ModuleType:
    for name in names:
        if importlib.util.find_spec(name) is None:
            continue
        try:
            return importlib.import_module(name)
        except (ImportError, OSError, RuntimeError) as error:
            raise EngineError(
                f"{family.product} cannot be loaded",
                received=str(error).splitlines()[0][:300],
                fix=f"Install it again: pip install 'gcis[{family.extra}]'.",
            ) from error
    raise EngineError(
        f"{family.product} is not installed",
        expected=" or ".join(names),
        fix=f"Install it: pip install 'gcis[{family.extra}]'; or use another --engine.",
    )
