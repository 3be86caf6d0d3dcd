"""Lean CT segmentation at deployment: bundle + CT file in, label map out; no PyTorch, MONAI or CLIP.

    from gcis_runtime import Segmenter, read_volume

    with Segmenter.open("demo") as segmenter:
        segmenter.segment(read_volume("ct.nii.gz")).save("ct_seg.nii.gz")

Names are imported when first used, so that `import gcis_runtime` costs next to nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gcis_runtime.bundles.bundle import Bundle, open_bundle
    from gcis_runtime.errors import GcisError
    from gcis_runtime.images.files import read_volume, write_labels
    from gcis_runtime.images.nifti import write_volume
    from gcis_runtime.images.volume import Volume
    from gcis_runtime.pipeline.result import Segmentation, Structure
    from gcis_runtime.pipeline.segmenter import Segmenter

__all__ = [
    "Bundle",
    "GcisError",
    "Segmentation",
    "Segmenter",
    "Structure",
    "Volume",
    "open_bundle",
    "read_volume",
    "write_labels",
    "write_volume",
]

_HOME = {
    "Bundle": "bundles.bundle",
    "GcisError": "errors",
    "Segmentation": "pipeline.result",
    "Segmenter": "pipeline.segmenter",
    "Structure": "pipeline.result",
    "Volume": "images.volume",
    "open_bundle": "bundles.bundle",
    "read_volume": "images.files",
    "write_labels": "images.files",
    "write_volume": "images.nifti",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'gcis_runtime' has no attribute {name!r}")
    return getattr(importlib.import_module(f"gcis_runtime.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
