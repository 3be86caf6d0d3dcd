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
    from gcis_runtime.bundle import Bundle, open_bundle
    from gcis_runtime.errors import GcisError
    from gcis_runtime.formats import read_volume, write_labels
    from gcis_runtime.nifti import write_volume
    from gcis_runtime.segmentation import Segmentation, Structure
    from gcis_runtime.segmenter import Segmenter
    from gcis_runtime.volume import Volume

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
    "Bundle": "bundle",
    "GcisError": "errors",
    "Segmentation": "segmentation",
    "Segmenter": "segmenter",
    "Structure": "segmentation",
    "Volume": "volume",
    "open_bundle": "bundle",
    "read_volume": "formats",
    "write_labels": "formats",
    "write_volume": "nifti",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'gcis_runtime' has no attribute {name!r}")
    return getattr(importlib.import_module(f"gcis_runtime.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
