"""Write CT volumes as DICOM series, regular and irregular, in all encodings that the tests need."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import (
    UID,
    CTImageStorage,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
)

from gcis_runtime.images.volume import Volume

ROOT = "1.2.826.0.1.3680043.10.1435."
"""A UID root for tests; UIDs of a series derive from its number and those of a slice from its index."""
PATIENT = "Muster^Erika"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Coding:
    """How voxels are stored.

    Attributes:
        bits: Bits stored, of 16 allocated.
        signed: PixelRepresentation.
        slopes: RescaleSlope of each slice, cyclically.
        intercepts: RescaleIntercept of each slice, cyclically.
        syntax: Transfer syntax.
    """

    bits: int = 12
    signed: bool = False
    slopes: Sequence[float] = (1.0,)
    intercepts: Sequence[float] = (-1024.0,)
    syntax: UID = ExplicitVRLittleEndian

    def stored(self, hu: NDArray[Any], index: int) -> NDArray[Any]:
        """Return the stored values of a slice (rows, columns)."""
        slope, intercept = self.rescale(index)
        values = np.rint((hu.astype(np.float64) - intercept) / slope)
        low, high = (
            (-(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1)
            if self.signed
            else (0, (1 << self.bits) - 1)
        )
        return np.clip(values, low, high).astype(np.int16 if self.signed else np.uint16)

    def rescale(self, index: int) -> tuple[float, float]:
        """Return slope and intercept of a slice."""
        return self.slopes[index % len(self.slopes)], self.intercepts[index % len(self.intercepts)]


PLAIN = Coding()


def slices_of(volume: Volume, *, coding: Coding = PLAIN, series: int = 2, **attributes: Any) -> list[Dataset]:
    """Return one data set per slice (third axis) of a volume.

    Args:
        volume: HU, (X, Y, Z): X becomes columns and Y rows.
        coding: How voxels are stored.
        series: SeriesNumber; also determines the UIDs.
        attributes: Further attributes of all slices.
    """
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ volume.affine
    found = []
    for k in range(volume.shape[2]):
        ds = _common(series)
        ds.SOPInstanceUID = f"{ROOT}{series}.{k + 1}"
        ds.InstanceNumber = k + 1
        ds.ImagePositionPatient = [_ds(v) for v in (lps @ (0, 0, k, 1))[:3]]
        ds.ImageOrientationPatient = [
            _ds(v) for axis in (0, 1) for v in lps[:3, axis] / np.linalg.norm(lps[:3, axis])
        ]
        ds.PixelSpacing = [_ds(np.linalg.norm(lps[:3, axis])) for axis in (1, 0)]
        ds.SliceThickness = 99  # never to be used
        slope, intercept = coding.rescale(k)
        ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = _ds(slope), _ds(intercept), "HU"
        for name, value in attributes.items():
            setattr(ds, name, value)
        _set_pixels(ds, coding.stored(volume.array[:, :, k].T, k), coding)
        found.append(ds)
    return found


def write(datasets: Sequence[Dataset], folder: Path, *, names: Callable[[int], str] | None = None) -> Path:
    """Write data sets into a folder, by default under names in an order unlike that of the slices."""
    folder.mkdir(parents=True, exist_ok=True)
    name = names or (lambda k: f"{(k * 7919) % 100003:06d}.dcm")
    for k, ds in enumerate(datasets):
        ds.save_as(folder / name(k), enforce_file_format=True)
    return folder


def enhanced_of(volume: Volume, *, series: int = 8, localiser: bool = False) -> Dataset:
    """Return a volume as one enhanced multi-frame CT; with `localiser`, a further frame of that type."""
    single = slices_of(volume, series=series)
    ds = _common(series)
    ds.SOPClassUID = ds.file_meta.MediaStorageSOPClassUID = EnhancedCTImageStorage
    ds.SOPInstanceUID = f"{ROOT}{series}.1"
    shared, per_frame = Dataset(), []
    orientation, measures, rescale = Dataset(), Dataset(), Dataset()
    orientation.ImageOrientationPatient = single[0].ImageOrientationPatient
    measures.PixelSpacing, measures.SliceThickness = single[0].PixelSpacing, 99
    rescale.RescaleSlope, rescale.RescaleIntercept, rescale.RescaleType = 1, -1024, "HU"
    shared.PlaneOrientationSequence = Items([orientation])
    shared.PixelMeasuresSequence = Items([measures])
    shared.PixelValueTransformationSequence = Items([rescale])
    order = [*range(1, len(single), 2), *range(0, len(single), 2)] + ([0] if localiser else [])
    for place, k in enumerate(order):
        group, position, kind = Dataset(), Dataset(), Dataset()
        position.ImagePositionPatient = single[k].ImagePositionPatient
        last = localiser and place == len(order) - 1
        kind.FrameType = ["ORIGINAL", "PRIMARY", "LOCALIZER" if last else "VOLUME", "NONE"]
        group.PlanePositionSequence, group.CTImageFrameTypeSequence = Items([position]), Items([kind])
        per_frame.append(group)
    ds.SharedFunctionalGroupsSequence = Items([shared])
    ds.PerFrameFunctionalGroupsSequence = Items(per_frame)
    ds.NumberOfFrames = len(order)
    frames = np.stack([PLAIN.stored(volume.array[:, :, k].T, 0) for k in order])
    _set_pixels(ds, frames, PLAIN)
    return ds


def sheared(volume: Volume, degrees: float) -> Volume:
    """Return a volume whose slices are shifted along Y as by a gantry tilt; voxels stay the same."""
    affine = volume.affine.copy()
    affine[1, 2] += np.tan(np.radians(degrees)) * affine[2, 2]
    return Volume(array=volume.array, affine=affine)


def _common(series: int) -> Dataset:
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = CTImageStorage
    ds.SOPClassUID = CTImageStorage
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["DERIVED", "SECONDARY", "AXIAL"]
    ds.Modality = "CT"
    ds.PatientName, ds.PatientID = PATIENT, "4711"
    ds.PatientBirthDate, ds.PatientSex, ds.BodyPartExamined = "19700101", "O", "HEADNECK"
    ds.PatientPosition = "HFS"
    ds.StudyDate, ds.StudyTime, ds.AccessionNumber = "20260101", "120000", "A1"
    ds.ReferringPhysicianName, ds.StudyID, ds.Manufacturer = "", "1", "gCIS tests"
    ds.PositionReferenceIndicator, ds.KVP, ds.AcquisitionNumber = "", "120", 1
    ds.StudyInstanceUID, ds.SeriesInstanceUID = f"{ROOT}1", f"{ROOT}{series}"
    ds.FrameOfReferenceUID = f"{ROOT}3"
    ds.SeriesNumber, ds.SeriesDescription = series, f"series {series}"
    ds.ConvolutionKernel = "B30f"
    return ds


def _set_pixels(ds: Dataset, stored: NDArray[Any], coding: Coding) -> None:
    ds.Rows, ds.Columns = stored.shape[-2:]
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 16, coding.bits, coding.bits - 1
    ds.PixelRepresentation = int(coding.signed)
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    if coding.syntax == ExplicitVRBigEndian:
        ds.file_meta.TransferSyntaxUID = coding.syntax
        stored = stored.byteswap()
    ds.PixelData = stored.tobytes()
    ds["PixelData"].VR = "OW"
    if coding.syntax.is_compressed and not coding.syntax.is_deflated:
        ds.compress(coding.syntax, generate_instance_uid=False)
    else:
        ds.file_meta.TransferSyntaxUID = coding.syntax


def _ds(value: float) -> str:
    """Return a decimal string of at most 16 characters."""
    return f"{value:.10g}"
