"""Write a label map as a DICOM Segmentation."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from gcis_runtime.dicom.results.codes import category_of, is_private, type_of
from gcis_runtime.dicom.results.request import (
    MANUFACTURER,
    MODEL,
    NOTICE,
    DicomStructure,
    ResultRequest,
    short_text,
)
from gcis_runtime.errors import OutputError

SegType = Literal["binary", "labelmap"]
_OFFSET = 1


def notes_on_codes(request: ResultRequest) -> tuple[str, ...]:
    """Return notes on the segmentation: structures without a SNOMED CT code."""
    private = [s.name for s in request.structures if is_private(s.name, s.codes)]
    return (f"no SNOMED CT code, private code in the segmentation: {', '.join(private)}",) if private else ()


def make_seg(request: ResultRequest, *, kind: SegType = "binary") -> Any:
    """Return a segmentation with one segment per structure as a data set of pydicom.

    The frames refer to the original slices. Segment numbers count the structures from 1.

    Args:
        request: The result.
        kind: `"binary"`, which all viewers read, or `"labelmap"`.

    Raises:
        OutputError: There is no structure, or the series cannot be referenced.
    """
    import highdicom as hd  # noqa: PLC0415 (optional)

    if not request.structures:
        raise OutputError("no structure was found: a segmentation has at least one segment")
    numbers = {s.value: n for n, s in enumerate(request.structures, start=1)}
    try:
        dataset = hd.seg.Segmentation(
            source_images=request.headers,
            **_pixels(request, numbers),
            segmentation_type="BINARY" if kind == "binary" else "LABELMAP",
            segment_descriptions=[_description(s, numbers[s.value], request) for s in request.structures],
            series_instance_uid=request.uid(f"{kind} seg series"),
            series_number=request.series_number(_OFFSET),
            sop_instance_uid=request.uid(f"{kind} seg"),
            instance_number=1,
            manufacturer=MANUFACTURER,
            manufacturer_model_name=MODEL,
            software_versions=request.version,
            device_serial_number=request.bundle_sha256[:16],
            content_label="SEGMENTATION",
            content_description=NOTICE,
            content_creator_name="gCIS^Software",
            series_description=short_text(f"{request.algorithm} segmentation (research only)", 64),
            transfer_syntax_uid="1.2.840.10008.1.2.1" if kind == "binary" else "1.2.840.10008.1.2.5",
        )
    except (ValueError, AttributeError, TypeError, NotImplementedError) as error:
        raise OutputError(
            "the series cannot be referenced by a segmentation",
            received=str(error),
            fix="Write another format, such as --format nii.gz.",
        ) from error
    _add_laterality(dataset, request)
    if kind == "labelmap":  # viewers mistake the background item for the first structure
        dataset.SegmentSequence = [s for s in dataset.SegmentSequence if s.SegmentNumber != 0]
    return dataset


def _pixels(request: ResultRequest, numbers: dict[int, int]) -> dict[str, Any]:
    """Return segment numbers (frames, rows, columns) in the order of the source frames.

    Frames of a multi-frame file with further frames, such as localisers, have explicit positions instead.
    """
    import highdicom as hd  # noqa: PLC0415 (optional)

    labels = request.slice_labels
    lookup = np.zeros(int(labels.max()) + 1, dtype=np.uint8 if len(numbers) < 256 else np.uint16)
    for value, number in numbers.items():
        if value < len(lookup):
            lookup[value] = number
    stacked = lookup[labels]
    frames = request.image.stack.frames
    if frames[0].index is None:
        return {"pixel_array": stacked}
    if any(f.file != frames[0].file for f in frames):
        raise OutputError(
            "a segmentation cannot refer to several multi-frame files",
            fix="Write another format, such as --format nii.gz.",
        )
    if len(frames) == int(frames[0].header.NumberOfFrames):
        out = np.empty_like(stacked)
        for place, frame in enumerate(frames):
            out[frame.index] = stacked[place]
        return {"pixel_array": out}
    gap = float(np.linalg.norm(request.image.stack.affine[:3, 2]))
    return {
        "pixel_array": stacked,
        "plane_positions": [hd.PlanePositionSequence("PATIENT", f.position.tolist()) for f in frames],
        "plane_orientation": hd.PlaneOrientationSequence("PATIENT", frames[0].axes.ravel().tolist()),
        "pixel_measures": hd.PixelMeasuresSequence(
            pixel_spacing=frames[0].spacing, slice_thickness=gap, spacing_between_slices=gap
        ),
    }


def _description(structure: DicomStructure, number: int, request: ResultRequest) -> Any:
    import highdicom as hd  # noqa: PLC0415 (optional)
    from pydicom.sr.codedict import codes  # noqa: PLC0415

    kind, _ = type_of(structure.name, structure.codes)
    return hd.seg.SegmentDescription(
        segment_number=number,
        segment_label=short_text(structure.name, 64),
        segmented_property_category=category_of(structure.name),
        segmented_property_type=kind,
        algorithm_type="AUTOMATIC",
        algorithm_identification=hd.AlgorithmIdentificationSequence(
            name=short_text(request.algorithm, 64),
            family=codes.DCM.ArtificialIntelligence,
            version=short_text(request.version, 64),
            source=MANUFACTURER,
            parameters={"bundle": request.bundle_sha256},
        ),
        tracking_uid=request.uid(f"segment {structure.value}"),
        tracking_id=short_text(structure.name, 64),
        display_color=hd.color.CIELabColor.from_rgb(*structure.color),
    )


def _add_laterality(dataset: Any, request: ResultRequest) -> None:
    by_number = dict(enumerate(request.structures, start=1))
    for segment in dataset.SegmentSequence:
        structure = by_number.get(int(segment.SegmentNumber))
        if structure is None:
            continue
        segment.SegmentDescription = NOTICE
        _, side = type_of(structure.name, structure.codes)
        if side is not None:
            segment.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence = [side]
