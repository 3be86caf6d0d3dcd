"""Define the report of a segmented image: the JSON file that is written next to its label map.

`docs/schema/report.v1.schema.json` is the JSON Schema. Fields that an earlier version did not write have
defaults, so that its reports can be read; unknown fields are ignored, except in the run key.
"""

from __future__ import annotations

from typing import Any, Final, Literal

import msgspec
from msgspec import UNSET, UnsetType

from gcis_runtime.pipeline.report_parts import (
    BundleReport,
    CropReport,
    DicomReport,
    EngineReport,
    ForecastReport,
    Mark,
    RegionReport,
    StructureReport,
    WindowsReport,
)

REPORT_VERSION: Final = 1


class FileStamp(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Size and modification time of a file; both are unset if the file is missing."""

    bytes: int | UnsetType = UNSET
    modified_ns: int | UnsetType = UNSET


class RunKey(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that the results of an image depend on. Two runs with equal keys have equal results.

    Options that are not used are unset, so that the keys of earlier versions stay valid. An unknown field is
    an error, since it is an option of a later version.

    Attributes:
        bundle: Hash of the bundle's manifest.
        structures: Label values.
        engine: Engine.
        precision: Precision.
        restore: How labels were resampled.
        image: Size and modification time of the image.
        max_memory: Memory limit in bytes.
        tf32: True if float32 products rounded their factors.
        roi: Region; for a mask its path, size and modification time in ns.
        coarse: Factor of the coarse pass, or hash of its bundle's manifest.
        body_crop: Crop option, if it differs from the default.
        raw: True if the bundle has post-processing rules for the structures that were not applied.
        straighten: True if images with oblique axes are segmented along the axes of the patient.
        series: SeriesInstanceUID of a DICOM series.
        irregular: True if unevenly spaced slices may be interpolated.
        dicom_output: Type of segmentation and UID root, if they differ from the defaults.
    """

    bundle: str
    structures: list[int]
    engine: str
    precision: str
    restore: str
    image: FileStamp
    max_memory: int | UnsetType = UNSET
    tf32: bool | UnsetType = UNSET
    roi: str | tuple[str, int, int] | UnsetType = UNSET
    coarse: float | str | UnsetType = UNSET
    body_crop: bool | UnsetType = UNSET
    raw: bool | UnsetType = UNSET
    straighten: bool | UnsetType = UNSET
    series: str | UnsetType = UNSET
    irregular: bool | UnsetType = UNSET
    dicom_output: tuple[str, str] | UnsetType = UNSET


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The report of one image.

    Attributes:
        schema: Version of this format.
        case: Name of the case; empty for a segmentation that was not written by a run.
        image: Path of the image.
        labels: Path of the label map.
        structures: Structures, in the bundle's order.
        bundle: The bundle.
        engine: The engine.
        restore: How labels were resampled to the image's grid.
        seconds: Seconds per stage.
        windows: Numbers of windows.
        region: The part of the volume that was computed.
        crop: The crop by the bundle's foreground rule.
        straightened: Angle in degrees by which the axes of the image were off those of the patient; unset if
            the network grid had the axes of the image.
        forecast: The forecast and the measured values.
        steps: One line per step that was taken for lack of memory.
        peak_memory_bytes: Peak resident memory of the process so far; None if unknown.
        warnings: Warnings about the image or the run.
        notice: The bundle's notice about its use.
        masks: Path of each mask by structure name.
        probability: Path of each probability map by structure name.
        statistics: Path of the CSV file with the measurements.
        preview: Path of the picture.
        report_html: Path of the page.
        marks: Plausibility marks on the page; unset without one.
        truth: Path of the true label map.
        dicom: The DICOM series; unset for an image file.
        key: Everything that the results depend on; unset for a segmentation that was not written by a run.
    """

    schema: Literal[1] = REPORT_VERSION
    case: str = ""
    image: str = ""
    labels: str = ""
    structures: list[StructureReport]
    bundle: BundleReport
    engine: EngineReport
    restore: str
    seconds: dict[str, float]
    windows: WindowsReport
    region: RegionReport = RegionReport()
    crop: CropReport = CropReport()
    straightened: float | UnsetType = UNSET
    forecast: ForecastReport = ForecastReport()
    steps: list[str] = []
    peak_memory_bytes: int | None = None
    warnings: list[str] = []
    notice: str = ""
    masks: dict[str, str] | UnsetType = UNSET
    probability: dict[str, str] | UnsetType = UNSET
    statistics: str | UnsetType = UNSET
    preview: str | UnsetType = UNSET
    report_html: str | UnsetType = UNSET
    marks: list[Mark] | UnsetType = UNSET
    truth: str | UnsetType = UNSET
    dicom: DicomReport | UnsetType = UNSET
    key: RunKey | UnsetType = UNSET


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of a report, generated from the types that read it."""
    title = f"Report of an image segmented by gcis-run, version {REPORT_VERSION}"
    made = msgspec.json.schema(Report)
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title} | made
