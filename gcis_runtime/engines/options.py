"""Define how a bundle is loaded into an engine."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, TypedDict

from gcis_runtime.choices import ENGINE_CHOICES, PRECISION_CHOICES, EngineChoice, PrecisionChoice
from gcis_runtime.errors import EngineError
from gcis_runtime.system.cpus import check_threads

_DEVICE = re.compile(r"cpu|cuda(:\d+)?")


class EngineKeywords(TypedDict, total=False):
    """The fields of `EngineOptions` that `Segmenter.open` also takes as keyword arguments.

    Text is validated when the options are built, so that callers may pass any string, such as one from a
    command line.
    """

    engine: str
    device: str
    precision: str
    threads: int | None
    tf32: bool


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Options of an engine, validated. Opening a session shows whether this machine has the engine.

    Attributes:
        engine: One of `choices.ENGINE_CHOICES`. `"auto"` takes OpenVINO on the CPU if it is installed (about
            six times as fast on this network), else ONNX Runtime; on a GPU, a TensorRT that is installed and
            for which the bundle has an engine, else ONNX Runtime.
        device: `"cpu"`, `"cuda"` or `"cuda:N"`.
        precision: One of `choices.PRECISION_CHOICES`; `"auto"` selects the fastest one that the bundle's
            parity report allows.
        threads: CPU threads; None for as many as the process may use.
        batch: Largest number of windows per run; None for one on the CPU, where larger batches are not
            faster, and for the largest batch of the bundle on a GPU.
        tf32: Let ONNX Runtime on a GPU round the factors of float32 products to 11 bits.
        measured_settings: Let ONNX Runtime on a GPU use the settings that were fastest in a trial on this
            machine, if one was made for this bundle (`gcis-bundle verify --trial`).

    Raises:
        EngineError: A value is invalid.
    """

    engine: EngineChoice = "auto"
    device: str = "cpu"
    precision: PrecisionChoice = "auto"
    threads: int | None = None
    batch: int | None = None
    tf32: bool = False
    measured_settings: bool = True

    def __post_init__(self) -> None:
        check_threads(self.threads)
        if not _DEVICE.fullmatch(str(self.device)):
            raise EngineError(
                "unknown device",
                received=repr(self.device),
                expected="cpu, cuda or cuda:NUMBER",
                fix="Use cpu, or cuda on a machine with an NVIDIA GPU.",
            )
        for kind, value, choices in (
            ("engine", self.engine, ENGINE_CHOICES),
            ("precision", self.precision, PRECISION_CHOICES),
        ):
            if value not in choices:
                raise EngineError(
                    f"unknown {kind}",
                    received=repr(value),
                    expected=", ".join(choices),
                    fix=f"Choose one of these, or leave the {kind} out.",
                )
        if self.batch is not None and (type(self.batch) is not int or self.batch < 1):
            raise EngineError(
                "not a window batch",
                received=repr(self.batch),
                expected="an integer of at least 1",
                fix="Leave it out to use the engine's default.",
            )

    def updated(self, keywords: EngineKeywords) -> EngineOptions:
        """Return these options with some fields replaced.

        Raises:
            EngineError: A value is invalid.
        """
        values: dict[str, Any] = {**keywords}
        return replace(self, **values)

    @property
    def text(self) -> str:
        """Engine, device and window batch, for messages."""
        batch = "" if self.batch is None else f", window batch {self.batch}"
        return f"{self.engine} on {self.device}{batch}"
