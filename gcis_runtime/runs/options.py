"""Define what to compute and write for every image of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from gcis_runtime.dicom.options import DicomOptions
from gcis_runtime.pipeline.options import SegmentOptions


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """What to compute and write for every image.

    Attributes:
        segment: What to compute. Its masks and probabilities are written to files.
        coarse_bundle: Folder or name of another bundle for the coarse pass. `run_images` opens it with the
            run's engine options and sets `segment.coarse`.
        statistics: Measure HU and position of each structure, and write them to a CSV file.
        preview: Write a picture.
        report_html: Write a page with pictures, measurements and marks, and one for all images of a run.
        truth: True label map on the image's grid; adds the Dice of each structure to the report.
        dicom: How the series of DICOM studies are chosen and read.
    """

    segment: SegmentOptions = field(default_factory=SegmentOptions)
    coarse_bundle: str | None = None
    statistics: bool = False
    preview: bool = False
    report_html: bool = False
    truth: Path | None = None
    dicom: DicomOptions = field(default_factory=DicomOptions)
