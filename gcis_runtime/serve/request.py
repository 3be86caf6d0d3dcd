"""Define the options of a job, which have the names and the meaning of the options of `gcis-run`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import msgspec

from gcis_runtime.bundles.manifest import Manifest
from gcis_runtime.choices import DEFAULT_RESTORE, LabelFormat, Restore
from gcis_runtime.dicom.options import DicomOptions
from gcis_runtime.pages.renderer import check_renderer
from gcis_runtime.pipeline.options import SegmentOptions
from gcis_runtime.regions.roi import MaskRoi, parse_roi
from gcis_runtime.runs.options import RunOptions
from gcis_runtime.serve.problems import ServeError
from gcis_runtime.system.memory import parse_bytes


class JobRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What to compute for an image. See `gcis-run --help` for each option.

    Attributes:
        bundle: Name of a bundle of the service; None for the only bundle, or the one that has the prompts.
        prompt: Structures to segment; all of the bundle's if empty.
        format: Formats of the labels; that of the image if empty.
        restore: How labels are resampled to the image's grid.
        raw: Do not apply the post-processing rules of the bundle.
        masks: Write one file per structure.
        probability: Write one probability map per structure.
        statistics: Write a CSV file with measurements.
        preview: Write a picture.
        report_html: Write a page with pictures and measurements.
        roi: Voxel ranges or the name of a structure. A mask is sent as the part `roi` of a multipart request.
        coarse: Factor of the coarse pass, or the name of another bundle of the service.
        body_crop: Crop to everything above air; None follows the bundle.
        straighten: Segment an oblique image along the axes of the patient.
        max_memory: Memory limit, such as `2G`.
        series: SeriesNumber or SeriesInstanceUID of the DICOM series; None for the only CT series.
        allow_irregular: Interpolate missing and unevenly spaced slices.
        seg_type: Type of the DICOM segmentation.
        sr: Write the measurements as a DICOM structured report.
        uid_root: Root of new UIDs.
    """

    bundle: str | None = None
    prompt: tuple[str, ...] = ()
    format: tuple[LabelFormat, ...] = ()
    restore: Restore = DEFAULT_RESTORE
    raw: bool = False
    masks: bool = False
    probability: bool = False
    statistics: bool = False
    preview: bool = False
    report_html: bool = False
    roi: str | None = None
    coarse: float | str | None = None
    body_crop: bool | None = None
    straighten: bool = False
    max_memory: str | None = None
    series: str | None = None
    allow_irregular: bool = False
    seg_type: Literal["binary", "labelmap"] = "binary"
    sr: bool = False
    uid_root: str | None = None

    def run_options(self, *, roi: Path | None = None, truth: Path | None = None) -> RunOptions:
        """Return the options of the run; a bundle for the coarse pass is in `coarse_bundle`.

        Args:
            roi: Mask that was sent with the image.
            truth: True label map that was sent with the image.

        Raises:
            OutputError: An option is invalid, or options exclude each other.
        """
        segment = SegmentOptions(
            restore=self.restore,
            masks=self.masks,
            probabilities=self.probability,
            roi=self.roi if roi is None else roi,
            coarse=self.coarse if isinstance(self.coarse, int | float) else None,
            body_crop=self.body_crop,
            straighten=self.straighten,
            max_memory=None if self.max_memory is None else parse_bytes(self.max_memory),
            raw=self.raw,
        )
        if isinstance(self.coarse, str):
            replace(segment, coarse=2.0)  # raises for options that exclude a coarse pass
        return RunOptions(
            segment=segment,
            coarse_bundle=self.coarse if isinstance(self.coarse, str) else None,
            statistics=self.statistics,
            preview=self.preview,
            report_html=self.report_html,
            truth=truth,
            dicom=DicomOptions(
                series=() if self.series is None else (self.series,),
                allow_irregular=self.allow_irregular,
                seg_type=self.seg_type,
                sr=self.sr,
                uid_root=self.uid_root,
            ),
        )

    def check(self, manifest: Manifest) -> None:
        """Check what needs no image: a region that names a file of the server is refused.

        Raises:
            GcisError: An option is invalid.
        """
        self.run_options()
        if self.report_html:
            check_renderer()
        if self.roi is not None and isinstance(parse_roi(self.roi, manifest), MaskRoi):
            raise ServeError(
                "the region of interest is a path",
                status=422,
                received="a path",
                expected="x0:x1,y0:y1,z0:z1 or the name of a structure",
                fix="Send the mask as the part 'roi' of a multipart request.",
            )


_LISTS = ("prompt", "format")


def request_of(values: Mapping[str, Any]) -> JobRequest:
    """Return the request that a JSON object describes.

    Raises:
        ServeError: A name is unknown or a value has the wrong type.
    """
    try:
        return msgspec.convert(dict(values), JobRequest, strict=True)
    except msgspec.ValidationError as error:
        raise _refused(error) from error


def request_of_fields(fields: Sequence[tuple[str, str]]) -> JobRequest:
    """Return the request that form fields or a query describe; `prompt` and `format` may be repeated.

    Raises:
        ServeError: A name is unknown or repeated, or a value has the wrong type.
    """
    values: dict[str, Any] = {}
    for name, text in fields:
        key = name.replace("-", "_")
        if key in _LISTS:
            values.setdefault(key, []).append(text)
        elif key in values:
            raise ServeError(f"the option {key} is given twice", status=422, expected="one value")
        else:
            values[key] = text
    if isinstance(coarse := values.get("coarse"), str):
        values["coarse"] = _number_or_text(coarse)
    try:
        return msgspec.convert(values, JobRequest, strict=False)
    except msgspec.ValidationError as error:
        raise _refused(error) from error


def _number_or_text(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _refused(error: msgspec.ValidationError) -> ServeError:
    names = ", ".join(JobRequest.__struct_fields__)
    return ServeError(
        "the options of the job are invalid",
        status=422,
        received=str(error),
        expected=f"values for {names}",
        fix="See /openapi.json for the types.",
    )
