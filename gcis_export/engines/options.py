"""How compiled engines are built, as the user asked for it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gcis_runtime.engines.tensorrt.family import Capability
from gcis_runtime.errors import EngineError

HardwareCompatibility = Literal["none", "same", "ampere+"]


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Options of compiled engines; each belongs to a backend.

    Attributes:
        optimization_level: trt, trt-rtx: 0 to 5; None is the builder's own.
        tf32: trt, trt-rtx: let float32 products round their factors to 11 bits.
        capabilities: trt-rtx: GPUs to build for; none means Ampere and later.
        hardware_compatibility: trt: GPUs of the same compute capability, or Ampere and later.
        version_compatible: trt: run under later releases and under tensorrt-lean.
    """

    optimization_level: int | None = None
    tf32: bool = False
    capabilities: tuple[Capability, ...] = ()
    hardware_compatibility: HardwareCompatibility = "none"
    version_compatible: bool = False

    def check(self, engines: Sequence[str]) -> None:
        """Refuse an option whose backend is not asked for: it would change nothing.

        Raises:
            EngineError: Names the option and the backend.
        """
        compiled = ("trt", "trt-rtx")
        wanted = {
            "--compute-capability": (bool(self.capabilities), ("trt-rtx",)),
            "--hardware-compatibility": (self.hardware_compatibility != "none", ("trt",)),
            "--version-compatible": (self.version_compatible, ("trt",)),
            "--optimization-level": (self.optimization_level is not None, compiled),
            "--tf32": (self.tf32, compiled),
        }
        for option, (given, backends) in wanted.items():
            if given and not set(backends) & set(engines):
                raise EngineError(
                    f"{option} belongs to --engine {' or '.join(backends)}",
                    received=f"--engine {', '.join(engines)}",
                    fix=f"Add --engine {backends[-1]}, or leave {option} out.",
                )


def read_capability(text: str) -> Capability:
    """Read a compute capability: `8.9`, `89` or `sm_89`.

    Raises:
        EngineError: It is none.
    """
    match = re.fullmatch(r"(?:sm_?)?(\d+)\.?(\d)", text.strip().lower())
    if match is None:
        raise EngineError("not a compute capability", received=repr(text), expected="one such as 8.9")
    return int(match[1]), int(match[2])
