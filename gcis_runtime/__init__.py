"""Segment CT with an exported bundle, without PyTorch, MONAI or CLIP.

    from gcis_runtime import Segmenter, read_volume

    with Segmenter.open("demo") as segmenter:
        segmenter.segment(read_volume("ct.nii.gz")).save("ct_seg.nii.gz")

Names are imported on first use, so that `import gcis_runtime` loads no other package. The import sets
environment variables that switch off the usage reports of other packages.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from gcis_runtime.dependencies import set_defaults

if TYPE_CHECKING:
    from gcis_runtime.bundles.bundle import Bundle, open_bundle
    from gcis_runtime.dicom.options import DicomOptions
    from gcis_runtime.dicom.study import read_dicom
    from gcis_runtime.engines.options import EngineOptions
    from gcis_runtime.errors import GcisError
    from gcis_runtime.images.files import read_volume, write_labels
    from gcis_runtime.images.nifti import write_volume
    from gcis_runtime.images.volume import Volume
    from gcis_runtime.pipeline.options import SegmentOptions
    from gcis_runtime.pipeline.report import Report
    from gcis_runtime.pipeline.result import Segmentation, Structure
    from gcis_runtime.pipeline.segmenter import Segmenter
    from gcis_runtime.runs.callbacks import RunCallbacks
    from gcis_runtime.runs.options import RunOptions
    from gcis_runtime.runs.outcome import RunResult
    from gcis_runtime.runs.run_images import run_images

set_defaults()

__all__ = [
    "Bundle",
    "DicomOptions",
    "EngineOptions",
    "GcisError",
    "Report",
    "RunCallbacks",
    "RunOptions",
    "RunResult",
    "SegmentOptions",
    "Segmentation",
    "Segmenter",
    "Structure",
    "Volume",
    "open_bundle",
    "read_dicom",
    "read_volume",
    "run_images",
    "write_labels",
    "write_volume",
]

_MODULE = {
    "Bundle": "bundles.bundle",
    "DicomOptions": "dicom.options",
    "EngineOptions": "engines.options",
    "GcisError": "errors",
    "Report": "pipeline.report",
    "RunCallbacks": "runs.callbacks",
    "RunOptions": "runs.options",
    "RunResult": "runs.outcome",
    "SegmentOptions": "pipeline.options",
    "Segmentation": "pipeline.result",
    "Segmenter": "pipeline.segmenter",
    "Structure": "pipeline.result",
    "Volume": "images.volume",
    "open_bundle": "bundles.bundle",
    "read_dicom": "dicom.study",
    "read_volume": "images.files",
    "run_images": "runs.run_images",
    "write_labels": "images.files",
    "write_volume": "images.nifti",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module 'gcis_runtime' has no attribute {name!r}")
    return getattr(importlib.import_module(f"gcis_runtime.{_MODULE[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
