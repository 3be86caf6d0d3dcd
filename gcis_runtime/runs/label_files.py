"""Write the labels of a case in every requested format, and its measurements as DICOM."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET

from gcis_runtime.pipeline.report import FileStamp, RunKey
from gcis_runtime.pipeline.report_parts import StructureReport
from gcis_runtime.pipeline.result import Segmentation
from gcis_runtime.runs.options import RunOptions
from gcis_runtime.runs.outputs import DICOM_FORMATS, SEG, Job

if TYPE_CHECKING:
    from gcis_runtime.dicom.load import SeriesImage
    from gcis_runtime.dicom.results.request import ResultRequest


def write_label_files(job: Job, result: Segmentation) -> None:
    """Write the labels in all formats that are not DICOM.

    Raises:
        OutputError: A file cannot be written.
    """
    for name, path in job.formats or (("", job.labels),):
        if name not in DICOM_FORMATS:
            result.save(path)


def write_dicom_files(
    job: Job,
    result: Segmentation,
    found: SeriesImage,
    options: RunOptions,
    *,
    key: RunKey,
    structures: Sequence[StructureReport],
) -> tuple[dict[str, str], tuple[str, ...]]:
    """Write the labels of a DICOM series as segmentation and contours, and with `sr` its measurements.

    Args:
        job: Outputs.
        result: The segmentation.
        found: The series.
        options: Options; `options.dicom` chooses the type of segmentation, the report and the UID root.
        key: Everything that the results depend on, from which UIDs derive.
        structures: Structures with measurements, if there are any.

    Returns:
        Path of each file by format, and notes: structures without voxels or without a code.

    Raises:
        OutputError: A file cannot be written, or the series cannot be referenced.
    """
    wanted = [(name, path) for name, path in job.formats if name in DICOM_FORMATS]
    for _, path in wanted:
        path.unlink(missing_ok=True)  # a structure that is no longer found must not stay
    if not wanted and not options.dicom.sr:
        return {}, ()
    empty = [s.name for s in structures if not s.voxels]
    notes = [f"without voxels, not in the DICOM files: {', '.join(empty)}"] if empty else []
    request = _request(result, found, options, key=key, structures=structures)
    if not request.structures:
        return {}, ("no structure was found: no DICOM file was written",)
    files = {}
    from gcis_runtime.dicom.results.files import save_dicom  # noqa: PLC0415 (imports pydicom)
    from gcis_runtime.dicom.results.rtstruct import make_rtstruct  # noqa: PLC0415
    from gcis_runtime.dicom.results.seg import make_seg, notes_on_codes  # noqa: PLC0415
    from gcis_runtime.dicom.results.sr import make_sr  # noqa: PLC0415

    seg = None
    for name, path in wanted:
        if name == SEG:
            seg = make_seg(request, kind=options.dicom.seg_type)
            save_dicom(path, seg)
            notes += notes_on_codes(request)
        else:
            save_dicom(path, make_rtstruct(request))
        files[name] = str(path)
    if options.dicom.sr and job.measurements is not None:
        if seg is None:
            seg = make_seg(request, kind=options.dicom.seg_type)
        save_dicom(job.measurements, make_sr(request, segmentation=seg))
        files["sr"] = str(job.measurements)
    return files, tuple(notes)


def _request(
    result: Segmentation,
    found: SeriesImage,
    options: RunOptions,
    *,
    key: RunKey,
    structures: Sequence[StructureReport],
) -> ResultRequest:
    from gcis_runtime.dicom.results.request import DicomStructure, ResultRequest  # noqa: PLC0415

    # What identifies the copy of the series or the machine must not change the UIDs of a repeated run.
    settings = msgspec.structs.replace(
        key, image=FileStamp(), engine="", precision="", max_memory=UNSET, tf32=UNSET
    )
    return ResultRequest(
        image=found,
        labels=result.labels,
        structures=[
            DicomStructure(
                value=s.value,
                name=s.name,
                color=s.color,
                codes=s.codes,
                measurements=_measurements(s),
                volume_ml=s.volume_ml,
            )
            for s in structures
            if s.voxels
        ],
        algorithm=result.bundle,
        version=version("gcis"),
        bundle_sha256=result.bundle_sha256,
        settings=msgspec.json.encode(settings).decode(),
        uid_root=options.dicom.uid_root,
    )


def _measurements(structure: StructureReport) -> dict[str, float]:
    """Return mean HU, and extent and bounds of the box in mm; empty without statistics.

    Bounds are patient coordinates of DICOM (LPS), whose x and y axes are opposite to those of the report.
    """
    found = structure.statistics
    if found is UNSET or found.mean_hu is None:
        return {}
    values = {"mean_hu": found.mean_hu}
    if found.box_min_mm is not None and found.box_max_mm is not None:
        for axis, low, high in zip("xyz", found.box_min_mm, found.box_max_mm, strict=True):
            values[f"{axis}_mm"] = high - low
            bounds = (low, high) if axis == "z" else (-high, -low)
            values[f"{axis}_min_mm"], values[f"{axis}_max_mm"] = bounds
    return values
