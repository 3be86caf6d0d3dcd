"""Define the engines, precisions and other choices that options, commands and manifests may name.

Each list is derived from its `Literal` type. The module imports nothing but `typing`, so that `--help` does
not have to load NumPy.
"""

from __future__ import annotations

from typing import Final, Literal, get_args

EngineName = Literal["onnx", "openvino", "trt", "trt-rtx"]
"""An inference engine."""
EngineChoice = Literal["auto", EngineName]
"""An engine, or `"auto"` for the fastest one that runs the bundle."""
Precision = Literal["fp32", "bf16", "fp16", "int8"]
"""Arithmetic of a graph's large operations."""
PrecisionChoice = Literal["auto", Precision]
"""A precision, or `"auto"` for the fastest one that the bundle's parity report allows."""
Restore = Literal["smooth", "nearest", "published"]
"""`"smooth"` interpolates the blended logits at the file's voxels and then compares them; `"nearest"` takes
the label of the network's nearest voxel, by position in mm. `"published"` reproduces the evaluation of the
published program: it stretches the label array from corner to corner without regard to positions, and blends
with the weights of MONAI 0.9.1. It displaces structures; use it only to reproduce published numbers."""
Merging = Literal["v0.9", "v2"]
"""Neighbours that the patch merging of the Swin transformer concatenates: `"v0.9"` as in MONAI up to 1.4,
with two of them twice and two never (published weights of gCIS and SwinUNETR); `"v2"` all eight."""
LabelFormat = Literal["nii.gz", "nii", "nrrd", "mha", "dicom-seg", "rtstruct"]
"""A format of labels."""

ENGINES: Final[tuple[EngineName, ...]] = get_args(EngineName)
ENGINE_CHOICES: Final[tuple[EngineChoice, ...]] = get_args(EngineChoice)
GRAPH_ENGINES: Final[tuple[EngineName, ...]] = ("onnx", "openvino")
"""Engines that load an ONNX file; the others load a file compiled from it."""
PRECISIONS: Final[tuple[Precision, ...]] = get_args(Precision)
PRECISION_CHOICES: Final[tuple[PrecisionChoice, ...]] = get_args(PrecisionChoice)
RESTORE_CHOICES: Final[tuple[Restore, ...]] = get_args(Restore)
LABEL_FORMATS: Final[tuple[LabelFormat, ...]] = get_args(LabelFormat)
MERGINGS: Final[tuple[Merging, ...]] = get_args(Merging)
DEFAULT_RESTORE: Final[Restore] = "smooth"
