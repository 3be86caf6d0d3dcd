"""Define the options of an export as immutable values; importing this module does not import PyTorch."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import msgspec

from gcis_runtime.bundles.post_rules import PostRules, read_rules
from gcis_runtime.choices import EngineName, Precision
from gcis_runtime.engines.tensorrt.family import Capability
from gcis_runtime.errors import BundleError, EngineError
from gcis_runtime.spec import Foreground, Shape3, Triple

__all__ = [
    "HARDWARE_COMPATIBILITIES",
    "WEIGHTS_TYPES",
    "BuildOptions",
    "EngineName",
    "ExportRequest",
    "HardwareCompatibility",
    "Overrides",
    "Precision",
    "WeightsType",
    "read_capability",
    "read_post",
]

HardwareCompatibility = Literal["none", "same", "ampere+"]
WeightsType = Literal["fp32", "fp16"]

HARDWARE_COMPATIBILITIES: tuple[HardwareCompatibility, ...] = get_args(HardwareCompatibility)
WEIGHTS_TYPES: tuple[WeightsType, ...] = get_args(WeightsType)


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """Options for building TensorRT engines; each applies to the backends named with it.

    Attributes:
        optimization_level: trt, trt-rtx: effort of the builder, 0 to 5; None uses the builder's default.
        tf32: trt, trt-rtx: allow TF32, which rounds the factors of float32 products to 11 bits.
        capabilities: trt-rtx: compute capabilities to build for; empty means Ampere and later.
        hardware_compatibility: trt: also run on GPUs of the same compute capability, or on Ampere and later.
        version_compatible: trt: also run with later TensorRT releases and with tensorrt-lean.
    """

    optimization_level: int | None = None
    tf32: bool = False
    capabilities: tuple[Capability, ...] = ()
    hardware_compatibility: HardwareCompatibility = "none"
    version_compatible: bool = False

    def check(self, engines: Sequence[EngineName]) -> None:
        """Raise if an option is set but none of `engines` uses it.

        Raises:
            EngineError: An option has no effect on the engines; the message names the option.
        """
        compiled = ("trt", "trt-rtx")
        usage = {
            "--compute-capability": (bool(self.capabilities), ("trt-rtx",)),
            "--hardware-compatibility": (self.hardware_compatibility != "none", ("trt",)),
            "--version-compatible": (self.version_compatible, ("trt",)),
            "--optimization-level": (self.optimization_level is not None, compiled),
            "--tf32": (self.tf32, compiled),
        }
        for option, (is_set, backends) in usage.items():
            if is_set and not set(backends) & set(engines):
                raise EngineError(
                    f"{option} belongs to --engine {' or '.join(backends)}",
                    received=f"--engine {', '.join(engines)}",
                    fix=f"Add --engine {backends[-1]}, or omit {option}.",
                )


@dataclass(frozen=True, kw_only=True)
class Overrides:
    """Window and preprocessing settings that replace those of the checkpoint; None keeps the checkpoint's.

    Attributes:
        patch_size: Window size in voxels (X, Y, Z).
        overlap: Overlap of neighbouring windows, in [0, 1).
        spacing: Voxel size in mm (X, Y, Z).
        orientation: Axis codes such as `"RAS"`, or `"file"` to keep the orientation of the image file.
        intensity_window: HU that are mapped to 0 and 1.
        foreground: Foreground crop of the image; `msgspec.UNSET` disables cropping.
    """

    patch_size: Shape3 | None = None
    overlap: float | None = None
    spacing: Triple | None = None
    orientation: str | None = None
    intensity_window: tuple[float, float] | None = None
    foreground: Foreground | msgspec.UnsetType | None = None


@dataclass(frozen=True, kw_only=True)
class ExportRequest:
    """Everything that determines an export.

    Attributes:
        checkpoint: Checkpoint or run folder.
        prompts: Prompts, or aliases of trained ones, in the order of the output channels; empty means all
            prompts of the checkpoint.
        path_selections: Pathways selected by hand, one per prompt, such as `"2,1,3,5,3,6,6"`.
        clip_weights: CLIP weights (tag or file) for prompts that the checkpoint has no embedding of.
        any_clip: Accept CLIP weights other than those that the checkpoint was trained with.
        untrained: Accept prompts that the network was not trained with; the bundle marks them.
        engines: Engines to build or check in addition to ONNX Runtime.
        build_options: Options for building TensorRT engines.
        precision: Precision of the engines. For precisions other than `"fp32"`, a second graph is written,
            and at least one of the engines must support the precision.
        batches: Additional batch sizes; one more graph is written per batch size.
        weights: Storage type of the weights in `model.onnx`. With `"fp16"`, fp16 graphs and float32 graphs of
            other batch sizes refer to these weights instead of storing them again.
        overrides: Window and preprocessing settings that replace those of the checkpoint.
        label_values: Label map values, one per prompt; empty means 1, 2, 3, …
        post: Structures and their post-processing rules, as returned by `read_post`: a prompt, an alias, or
            `"*"` for all structures that are not named.
        cases: CT files for the parity gate; empty means those of `calibration`, or else a phantom.
        calibration: CT files for INT8 calibration; empty means phantoms.
        windows_per_case: Windows per case that the parity gate compares.
        name: Name of the bundle; None derives it from the output folder or the prompts.
        output: Bundle folder; None installs the bundle into the bundle store.
        triton: Triton model repository to add the bundle to.
        triton_case: Triton model repository to add the bundle to as a whole-case model.
        monai_bundle: Folder to write a MONAI bundle to.
    """

    checkpoint: Path
    prompts: tuple[str, ...] = ()
    path_selections: tuple[str, ...] = ()
    clip_weights: str | None = None
    any_clip: bool = False
    untrained: bool = False
    engines: tuple[str, ...] = ("onnx",)
    build_options: BuildOptions = field(default_factory=BuildOptions)
    precision: Precision = "fp32"
    batches: tuple[int, ...] = ()
    weights: WeightsType = "fp32"
    overrides: Overrides = field(default_factory=Overrides)
    label_values: tuple[int, ...] = ()
    post: tuple[tuple[str, PostRules | None], ...] = ()
    cases: tuple[Path, ...] = ()
    calibration: tuple[Path, ...] = ()
    windows_per_case: int = 2
    name: str | None = None
    output: Path | None = None
    triton: Path | None = None
    triton_case: Path | None = None
    monai_bundle: Path | None = None


def read_post(text: str) -> tuple[str, PostRules | None]:
    """Read the rules of a structure, such as `mandible=largest,fill,min:0.5`.

    Args:
        text: Structure, or `*` for all that are not named; then the rules, or `none`.

    Raises:
        BundleError: There is no structure, or a rule cannot be used.
    """
    name, _, rules = (part.strip() for part in text.partition("="))
    if not name or not rules:
        raise BundleError(
            "--post cannot be read",
            received=repr(text),
            expected="STRUCTURE=RULES, such as 'mandible=largest,fill,min:0.5' or '*=largest'",
            fix="Name a structure of the bundle, or * for all.",
        )
    return name, None if rules == "none" else read_rules(rules)


def read_capability(text: str) -> Capability:
    """Parse a compute capability written as `8.9`, `89` or `sm_89`.

    Raises:
        EngineError: The text is not a compute capability.
    """
    match = re.fullmatch(r"(?:sm_?)?(\d+)\.?(\d)", text.strip().lower())
    if match is None:
        raise EngineError(
            "not a compute capability",
            received=repr(text),
            expected="one such as 8.9",
            fix="Give the compute capability of the GPU; `nvidia-smi --query-gpu=compute_cap` prints it.",
        )
    return int(match[1]), int(match[2])
