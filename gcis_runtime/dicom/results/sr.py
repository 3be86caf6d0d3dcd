"""Write measurements of structures as a DICOM Structured Report (TID 1500) that refers to a segmentation."""

from __future__ import annotations

from typing import Any

from gcis_runtime.dicom.results.codes import PRIVATE_SCHEME, type_of
from gcis_runtime.dicom.results.request import MANUFACTURER, NOTICE, DicomStructure, ResultRequest, short_text

_OFFSET = 3
_LENGTHS = {
    "x_mm": ("EXTENT_RL", "Extent right to left"),
    "y_mm": ("EXTENT_AP", "Extent front to back"),
    "z_mm": ("EXTENT_SI", "Extent head to foot"),
    "x_min_mm": ("BOX_X_MIN", "Lowest x of the bounding box"),
    "x_max_mm": ("BOX_X_MAX", "Highest x of the bounding box"),
    "y_min_mm": ("BOX_Y_MIN", "Lowest y of the bounding box"),
    "y_max_mm": ("BOX_Y_MAX", "Highest y of the bounding box"),
    "z_min_mm": ("BOX_Z_MIN", "Lowest z of the bounding box"),
    "z_max_mm": ("BOX_Z_MAX", "Highest z of the bounding box"),
}
"""Code and meaning of each length by its key in `DicomStructure.measurements`."""


def make_sr(request: ResultRequest, *, segmentation: Any) -> Any:
    """Return a data set of pydicom with volume, mean HU, and extent and bounds of the box of each structure.

    Args:
        request: The result, with measurements.
        segmentation: The data set of the segmentation (`make_seg`), whose segments are referenced.
    """
    import highdicom as hd  # noqa: PLC0415 (optional)
    from pydicom.sr.codedict import codes  # noqa: PLC0415

    observer = hd.sr.ObserverContext(
        observer_type=codes.DCM.Device,
        observer_identifying_attributes=hd.sr.DeviceObserverIdentifyingAttributes(
            uid=request.uid("device"),
            name="gcis-run",
            manufacturer_name=MANUFACTURER,
            model_name=request.version,
        ),
    )
    groups = [
        _group(request, structure, number, segmentation)
        for number, structure in enumerate(request.structures, start=1)
    ]
    report = hd.sr.MeasurementReport(
        observation_context=hd.sr.ObservationContext(observer_device_context=observer),
        procedure_reported=codes.LN.CTUnspecifiedBodyRegion,
        imaging_measurements=groups,
        title=codes.DCM.ImagingMeasurementReport,
    )
    return hd.sr.Comprehensive3DSR(
        evidence=[segmentation, *request.headers],
        content=report,
        series_instance_uid=request.uid("sr series"),
        series_number=request.series_number(_OFFSET),
        sop_instance_uid=request.uid("sr"),
        instance_number=1,
        manufacturer=MANUFACTURER,
        series_description=short_text(f"{request.algorithm} measurements. {NOTICE}", 64),
        is_complete=True,
        is_final=False,
    )


def _group(request: ResultRequest, structure: DicomStructure, number: int, segmentation: Any) -> Any:
    import highdicom as hd  # noqa: PLC0415 (optional)
    from pydicom.sr.codedict import codes  # noqa: PLC0415

    kind, side = type_of(structure.name, structure.codes)
    sites = None if side is None else [hd.sr.FindingSite(anatomic_location=kind, laterality=side)]
    volume = round(structure.volume_ml, 3)
    found = [hd.sr.Measurement(name=codes.SCT.Volume, value=volume, unit=codes.UCUM.CubicCentimeter)]
    values = structure.measurements
    if "mean_hu" in values:
        found.append(
            hd.sr.Measurement(
                name=codes.DCM.AttenuationCoefficient,
                value=round(values["mean_hu"], 2),
                unit=codes.UCUM.HounsfieldUnit,
                derivation=codes.SCT.Mean,
            )
        )
    for key, (code, meaning) in _LENGTHS.items():
        if key in values:
            found.append(
                hd.sr.Measurement(
                    name=hd.sr.CodedConcept(code, PRIVATE_SCHEME, meaning),
                    value=round(values[key], 2),
                    unit=codes.UCUM.Millimeter,
                )
            )
    return hd.sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=hd.sr.TrackingIdentifier(
            uid=request.uid(f"segment {structure.value}"), identifier=short_text(structure.name, 64)
        ),
        referenced_segment=hd.sr.ReferencedSegment(
            sop_class_uid=segmentation.SOPClassUID,
            sop_instance_uid=segmentation.SOPInstanceUID,
            segment_number=number,
            source_series=hd.sr.SourceSeriesForSegmentation(request.image.series.uid),
        ),
        finding_type=kind,
        finding_sites=sites,
        measurements=found,
    )
