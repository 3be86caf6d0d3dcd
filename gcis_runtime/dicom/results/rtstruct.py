"""Write a label map as a DICOM RT Structure Set: closed planar contours in the planes of the slices.

Contours are those of the mask at one half, computed by contourpy. A hole is joined to the contour around it
by a keyhole: a path to the hole and back, as the standard describes for CLOSED_PLANAR.
"""

from __future__ import annotations

import datetime
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.dicom.frames import Frame
from gcis_runtime.dicom.headers import text_of
from gcis_runtime.dicom.results.codes import category_of, type_of
from gcis_runtime.dicom.results.request import MANUFACTURER, MODEL, NOTICE, ResultRequest, short_text

_RT_STRUCTURE_SET = "1.2.840.10008.5.1.4.1.1.481.3"
_EXPLICIT_LITTLE = "1.2.840.10008.1.2.1"
_DETACHED_STUDY = "1.2.840.10008.3.1.2.3.1"
_OFFSET = 2
_COPIED = (
    "SpecificCharacterSet", "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "PatientAge",
    "PatientSize", "PatientWeight", "StudyInstanceUID", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "ReferringPhysicianName", "StudyDescription", "FrameOfReferenceUID",
    "PositionReferenceIndicator",
)  # fmt: skip
_TYPE_2 = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "StudyID",
    "AccessionNumber", "ReferringPhysicianName", "PositionReferenceIndicator",
)  # fmt: skip


def make_rtstruct(request: ResultRequest) -> Any:
    """Return a data set of pydicom with one region of interest per structure."""
    from pydicom.dataset import Dataset, FileMetaDataset  # noqa: PLC0415 (optional)
    from pydicom.uid import UID  # noqa: PLC0415

    source = request.image.stack.frames[0].header
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = ds.SOPClassUID = UID(_RT_STRUCTURE_SET)
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID = UID(request.uid("rtstruct"))
    ds.file_meta.TransferSyntaxUID = UID(_EXPLICIT_LITTLE)
    for name in _COPIED:
        if name in source:
            ds[name] = source[name]
        elif name in _TYPE_2:
            setattr(ds, name, "")
    ds.SpecificCharacterSet = "ISO_IR 192"
    now = datetime.datetime.now().astimezone()
    ds.InstanceCreationDate = ds.StructureSetDate = now.strftime("%Y%m%d")
    ds.InstanceCreationTime = ds.StructureSetTime = now.strftime("%H%M%S")
    ds.Modality, ds.SeriesInstanceUID = "RTSTRUCT", request.uid("rtstruct series")
    ds.SeriesNumber, ds.InstanceNumber = request.series_number(_OFFSET), 1
    ds.SeriesDescription = short_text(f"{request.algorithm} contours (research only)", 64)
    ds.Manufacturer, ds.ManufacturerModelName = MANUFACTURER, MODEL
    ds.SoftwareVersions, ds.OperatorsName = short_text(request.version, 64), ""
    ds.StructureSetLabel, ds.StructureSetName = "GCIS", short_text(request.algorithm, 64)
    ds.StructureSetDescription = NOTICE
    ds.ApprovalStatus = "UNAPPROVED"
    ds.ReferencedFrameOfReferenceSequence = [_reference(request)]
    ds.StructureSetROISequence, ds.ROIContourSequence, ds.RTROIObservationsSequence = [], [], []
    for number, structure in enumerate(request.structures, start=1):
        roi, contours, observation = Dataset(), Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = number, short_text(structure.name, 64)
        roi.ReferencedFrameOfReferenceUID = text_of(source, "FrameOfReferenceUID")
        roi.ROIGenerationAlgorithm = "AUTOMATIC"
        contours.ROIDisplayColor, contours.ReferencedROINumber = list(structure.color), number
        contours.ContourSequence = list(_contours(request, structure.value))
        observation.ObservationNumber = observation.ReferencedROINumber = number
        lesion = category_of(structure.name).value != "91723000"
        observation.RTROIInterpretedType, observation.ROIInterpreter = ("GTV" if lesion else "ORGAN"), ""
        kind, side = type_of(structure.name, structure.codes)
        if side is not None:
            kind.SegmentedPropertyTypeModifierCodeSequence = [side]
        observation.RTROIIdentificationCodeSequence = [kind]
        ds.StructureSetROISequence.append(roi)
        ds.ROIContourSequence.append(contours)
        ds.RTROIObservationsSequence.append(observation)
    return ds


def _reference(request: ResultRequest) -> Any:
    """Return the frame of reference with study, series and images."""
    from pydicom.dataset import Dataset  # noqa: PLC0415 (optional)

    source = request.image.stack.frames[0].header
    frame, study, series = Dataset(), Dataset(), Dataset()
    frame.FrameOfReferenceUID = text_of(source, "FrameOfReferenceUID")
    study.ReferencedSOPClassUID = _DETACHED_STUDY
    study.ReferencedSOPInstanceUID = request.image.series.study_uid
    series.SeriesInstanceUID = request.image.series.uid
    series.ContourImageSequence = [_image(f) for f in request.image.stack.frames]
    study.RTReferencedSeriesSequence = [series]
    frame.RTReferencedStudySequence = [study]
    return frame


def _image(frame: Frame) -> Any:
    from pydicom.dataset import Dataset  # noqa: PLC0415 (optional)

    item = Dataset()
    item.ReferencedSOPClassUID = frame.header.SOPClassUID
    item.ReferencedSOPInstanceUID = frame.header.SOPInstanceUID
    if frame.index is not None:
        item.ReferencedFrameNumber = frame.index + 1
    return item


def _contours(request: ResultRequest, value: int) -> Iterator[Any]:
    from pydicom.dataset import Dataset  # noqa: PLC0415 (optional)

    number = 0
    for frame, plane in zip(request.image.stack.frames, request.slice_labels, strict=True):
        mask = plane == value
        if not mask.any():
            continue
        for outline in outlines(mask):
            number += 1
            x, y = outline[:, :1] * frame.spacing[1], outline[:, 1:] * frame.spacing[0]
            points = frame.position + x * frame.axes[0] + y * frame.axes[1]
            item = Dataset()
            item.ContourImageSequence = [_image(frame)]
            item.ContourGeometricType, item.ContourNumber = "CLOSED_PLANAR", number
            item.NumberOfContourPoints = len(points)
            item.ContourData = [f"{v:.4f}" for v in points.ravel()]
            yield item


def outlines(mask: NDArray[np.bool_]) -> Iterator[NDArray[np.float64]]:
    """Yield the closed outlines of a mask, holes joined by keyholes, without repeating the first point.

    Args:
        mask: (rows, columns).

    Yields:
        (N, 2) points: column and row index of voxel centres, with fractions.
    """
    from contourpy import FillType, contour_generator  # noqa: PLC0415 (optional)

    padded = np.pad(mask, 1).astype(np.float64)
    made: Any = contour_generator(z=padded, fill_type=FillType.OuterOffset).filled(0.5, np.inf)
    for points, offsets in zip(*made, strict=True):
        yield _keyholed([points[first : end - 1] - 1 for first, end in itertools.pairwise(offsets)])


def _keyholed(rings: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Join the holes `rings[1:]` to the outline `rings[0]`, each where the two are closest."""
    outline = rings[0]
    holes = list(rings[1:])
    while holes:
        pairs = [np.linalg.norm(outline[:, None] - hole[None], axis=2) for hole in holes]
        nearest = int(np.argmin([p.min() for p in pairs]))
        hole = holes.pop(nearest)
        i, j = np.unravel_index(int(pairs[nearest].argmin()), pairs[nearest].shape)
        around = np.concatenate([hole[j:], hole[: j + 1]])
        outline = np.concatenate([outline[: i + 1], around, outline[i:]])
    return outline
