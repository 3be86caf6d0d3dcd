"""Describe the two TensorRT families, and import their Python modules."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from gcis_runtime.bundles.manifest import Backend
from gcis_runtime.engines.package_import import import_package
from gcis_runtime.errors import EngineError, UnusableEngineError

Capability = tuple[int, int]
"""A compute capability (major, minor)."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """One TensorRT family.

    Attributes:
        backend: Name in the manifest and on the command line.
        product: Product name for messages.
        builder: Module that builds and runs engines.
        runners: Modules that run engines, in order of preference.
        extra: Name of the pip extra that installs the module.
        builds_without_gpu: Whether engines can be built on a machine without a GPU.
        capabilities: Supported compute capabilities; None if they depend on the engine.
    """

    backend: Backend
    product: str
    builder: str
    runners: tuple[str, ...]
    extra: str
    builds_without_gpu: bool
    capabilities: tuple[Capability, ...] | None = None

    def serves(self, capability: Capability) -> bool:
        """Return whether the family supports a compute capability."""
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
    # Data-centre GPUs such as H100 (9.0) and B200 (10.0) are not supported.
    capabilities=((7, 5), (8, 0), (8, 6), (8, 9), (12, 0), (12, 1)),
)
FAMILIES: dict[str, Family] = {family.backend: family for family in (TRT, TRT_RTX)}


def load_builder(family: Family) -> Any:
    """Import the module that builds engines.

    Raises:
        EngineError: The module is not installed, or its libraries cannot be loaded.
    """
    return _load(family, (family.builder,))


def load_runner(family: Family) -> Any:
    """Import the module that runs engines; the import does not access a GPU.

    Raises:
        EngineError: No such module is installed, or its libraries cannot be loaded.
    """
    return _load(family, family.runners)


def installed_version(family: Family) -> str | None:
    """Return the version of the module that runs engines; None if no module can be loaded."""
    try:
        return str(load_runner(family).__version__)
    except (EngineError, AttributeError):
        return None


def _load(family: Family, names: tuple[str, ...]) -> ModuleType:
    for name in names:
        try:
            if importlib.util.find_spec(name) is None:
                continue
            return import_package(name, needs="Runtime")
        except Exception as error:  # a damaged package raises anything
            raise UnusableEngineError(
                f"{family.product} cannot be loaded",
                received=(str(error).splitlines() or [type(error).__name__])[0][:300],
                fix=f"Install it again: pip install 'gcis[{family.extra}]'.",
            ) from error
    raise EngineError(
        f"{family.product} is not installed",
        expected=" or ".join(names),
        fix=f"Install it: pip install 'gcis[{family.extra}]'; or use another --engine.",
    )
