"""Test DICOM results: their labels lie where the image says, and their contents are those of the standard."""

from __future__ import annotations

from pathlib import Path

import highdicom as hd
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray

from gcis_runtime.dicom.load import SeriesImage, read_series
from gcis_runtime.dicom.options import DicomOptions
from gcis_runtime.dicom.results.codes import PRIVATE_SCHEME, type_of
from gcis_runtime.dicom.results.files import save_dicom
from gcis_runtime.dicom.results.request import DicomStructure, ResultRequest, check_uid_root
from gcis_runtime.dicom.results.rtstruct import make_rtstruct, outlines
from gcis_runtime.dicom.results.seg import make_seg, notes_on_codes
from gcis_runtime.dicom.results.sr import make_sr
from gcis_runtime.dicom.study import find_series
from gcis_runtime.errors import OutputError
from gcis_runtime.images.volume import Volume
from tests.support.dicom_series import enhanced_of, sheared, slices_of, write

NAMES = ("brainstem", "left parotid gland", "unheard-of structure", "mandible")


def series(folder: Path, *, allow_irregular: bool = False) -> SeriesImage:
    (found,) = find_series([folder], DicomOptions())
    return read_series(found, allow_irregular=allow_irregular)


def labels_of(shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """Return three boxes, the second with a hole, and no voxel of the fourth structure."""
    labels = np.zeros(shape, dtype=np.uint8)
    labels[3:20, 4:9, 1:6] = 3
    labels[22:38, 5:30, 0:9] = 5
    labels[26:30, 10:20, 2:7] = 0
    labels[5:9, 20:30, 4:8] = 9
    return labels


def request(image: SeriesImage, **changes: object) -> ResultRequest:
    structures = [
        DicomStructure(value=v, name=n, color=c, measurements={"mean_hu": 12.5, "x_mm": 10.0}, volume_ml=1.5)
        for v, n, c in zip((3, 5, 9), NAMES, ((255, 0, 0), (0, 255, 0), (0, 0, 255)), strict=False)
    ]
    values: dict[str, object] = {
        "image": image,
        "labels": labels_of(image.volume.shape),
        "structures": structures,
        "algorithm": "test",
        "version": "0.1.0",
        "bundle_sha256": "ab" * 32,
        "settings": "{}",
    }
    return ResultRequest(**{**values, **changes})  # type: ignore[arg-type]


@pytest.fixture(params=["plain", "tilted", "enhanced"])
def image(request: pytest.FixtureRequest, volume: Volume, tmp_path: Path) -> SeriesImage:
    made = {
        "plain": lambda: slices_of(volume),
        "tilted": lambda: slices_of(sheared(volume, 15)),
        "enhanced": lambda: [enhanced_of(volume)],
    }[request.param]()
    return series(write(made, tmp_path / "series"))


@pytest.mark.parametrize("kind", ["binary", "labelmap"])
def test_each_segment_refers_to_the_slices_in_which_it_lies(image: SeriesImage, tmp_path: Path, kind) -> None:
    asked = request(image)
    save_dicom(tmp_path / "seg.dcm", make_seg(asked, kind=kind))
    assert notes_on_codes(asked) == (
        "no SNOMED CT code, private code in the segmentation: unheard-of structure",
    )
    seg = hd.seg.segread(tmp_path / "seg.dcm")
    assert sorted(seg.segment_numbers) == [1, 2, 3]
    frames = image.stack.frames
    for place, frame in enumerate(frames):
        uid = frame.header.SOPInstanceUID
        if frame.index is None:
            found = seg.get_pixels_by_source_instance(
                [uid], combine_segments=True, ignore_spatial_locations=True
            )
        else:
            found = seg.get_pixels_by_source_frame(
                uid, [frame.index + 1], combine_segments=True, ignore_spatial_locations=True
            )
        expected = asked.labels[:, :, place].T
        assert np.array_equal(found[0], np.select([expected == 3, expected == 5, expected == 9], [1, 2, 3]))
    item = seg.SegmentSequence[1]
    assert item.SegmentLabel == "left parotid gland"
    assert item.SegmentDescription == "Research software, not a medical device"
    kind_of = item.SegmentedPropertyTypeCodeSequence[0]
    assert (kind_of.CodeValue, kind_of.CodingSchemeDesignator) == ("45289007", "SCT")
    assert kind_of.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning == "Left"
    assert (
        seg.SegmentSequence[2].SegmentedPropertyTypeCodeSequence[0].CodingSchemeDesignator == PRIVATE_SCHEME
    )
    assert seg.PatientName == "Muster^Erika" and seg.StudyInstanceUID == image.series.study_uid
    assert (
        seg.SeriesInstanceUID != image.series.uid and seg.SeriesNumber == int(image.series.number) * 100 + 1
    )


def test_frames_of_a_file_with_a_localiser_have_their_positions(volume: Volume, tmp_path: Path) -> None:
    image = series(write([enhanced_of(volume, localiser=True)], tmp_path / "s"))
    asked = request(image)
    seg = make_seg(asked)
    positions = np.array([f.position for f in image.stack.frames])
    for frame, pixels in zip(seg.PerFrameFunctionalGroupsSequence, seg.pixel_array, strict=True):
        place = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, dtype=float)
        (k,) = np.flatnonzero(np.linalg.norm(positions - place, axis=1) < 1e-3)
        number = frame.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        assert np.array_equal(pixels > 0, (3, 5, 9)[number - 1] == asked.labels[:, :, k].T)


def test_uids_are_those_of_bundle_series_and_settings(volume: Volume, tmp_path: Path) -> None:
    image = series(write(slices_of(volume), tmp_path / "s"))
    one, again = make_seg(request(image)), make_seg(request(image))
    assert one.SOPInstanceUID == again.SOPInstanceUID and one.SeriesInstanceUID == again.SeriesInstanceUID
    for change in ({"settings": "{1}"}, {"bundle_sha256": "cd" * 32}, {"uid_root": "1.2.3"}):
        assert make_seg(request(image, **change)).SOPInstanceUID != one.SOPInstanceUID
    assert one.SOPInstanceUID.startswith("2.25.") and one.SOPInstanceUID.is_valid
    assert make_seg(request(image, uid_root="1.2.826.0.1.")).SOPInstanceUID.startswith("1.2.826.0.1.")
    for root in ("", "abc", "1", "1..2", "1.02", "1.2" * 20):
        with pytest.raises(OutputError, match="UID root is invalid"):
            check_uid_root(root)


def test_a_segmentation_without_structures_is_refused(volume: Volume, tmp_path: Path) -> None:
    image = series(write(slices_of(volume), tmp_path / "s"))
    with pytest.raises(OutputError, match="no structure was found"):
        make_seg(request(image, structures=[]))


def test_labels_of_an_interpolated_series_lie_on_its_slices(volume: Volume, tmp_path: Path) -> None:
    slices = [ds for k, ds in enumerate(slices_of(volume)) if k not in (3, 4)]
    image = series(write(slices, tmp_path / "s"), allow_irregular=True)
    asked = request(image)
    assert asked.labels.shape[2] == 9 and asked.slice_labels.shape[0] == 7
    assert np.array_equal(asked.slice_labels[3], asked.labels[:, :, 5].T)
    assert make_seg(asked).pixel_array.shape[1:] == (34, 40)


def test_contours_enclose_exactly_the_voxels(image: SeriesImage, tmp_path: Path) -> None:
    asked = request(image)
    save_dicom(tmp_path / "rt.dcm", make_rtstruct(asked))
    ds = pydicom.dcmread(tmp_path / "rt.dcm")
    assert [r.ROIName for r in ds.StructureSetROISequence] == list(NAMES[:3])
    places = {(str(f.header.SOPInstanceUID), f.index): k for k, f in enumerate(image.stack.frames)}
    to_voxel = np.linalg.inv(np.diag([-1.0, -1, 1, 1]) @ image.stack.affine)
    for item, value in zip(ds.ROIContourSequence, (3, 5, 9), strict=True):
        drawn = np.zeros(image.volume.shape, dtype=bool)
        for contour in item.ContourSequence:
            points = np.array(contour.ContourData, dtype=float).reshape(-1, 3)
            voxels = np.c_[points, np.ones(len(points))] @ to_voxel.T
            reference = contour.ContourImageSequence[0]
            index = getattr(reference, "ReferencedFrameNumber", None)
            place = places[str(reference.ReferencedSOPInstanceUID), None if index is None else int(index) - 1]
            assert np.abs(voxels[:, 2] - place).max() < 1e-3
            drawn[:, :, place] ^= rasterised(voxels[:, :2], drawn.shape[:2])
        assert np.array_equal(drawn, asked.labels == value)


def rasterised(points: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Return the voxels (x, y) whose centres are inside a polygon, by the crossing number."""
    x, y = np.meshgrid(np.arange(shape[0]), np.arange(shape[1]), indexing="ij")
    inside = np.zeros(shape, dtype=bool)
    for (x1, y1), (x2, y2) in zip(points, np.roll(points, -1, axis=0), strict=True):
        if abs(y2 - y1) > 1e-6:
            crosses = (y1 > y) != (y2 > y)
            inside ^= crosses & (x < (x2 - x1) * (y - y1) / (y2 - y1) + x1)
    return inside


def test_a_hole_is_joined_by_a_keyhole() -> None:
    mask = np.zeros((12, 12), dtype=bool)
    mask[1:11, 1:11] = True
    mask[3:5, 3:5] = mask[6:9, 6:8] = False
    mask[11, 11] = True  # touches by a corner: a contour of its own
    found = list(outlines(mask))
    assert len(found) == 2
    drawn = np.zeros((12, 12), dtype=bool)
    for outline in found:
        drawn ^= rasterised(outline[:, ::-1], (12, 12))
    assert np.array_equal(drawn, mask)


def test_measurements_refer_to_the_segments(volume: Volume, tmp_path: Path) -> None:
    image = series(write(slices_of(volume), tmp_path / "s"))
    asked = request(image)
    seg = make_seg(asked)
    save_dicom(tmp_path / "sr.dcm", make_sr(asked, segmentation=seg))
    report = hd.sr.srread(tmp_path / "sr.dcm")
    groups = report.content.get_volumetric_roi_measurement_groups()
    assert [g.reference_type.meaning for g in groups] == ["Referenced Segment"] * 3
    values = {m.name.meaning: m.value for m in groups[1].get_measurements()}
    assert values == {"Volume": 1.5, "Attenuation Coefficient": 12.5, "Extent right to left": 10.0}
    assert make_sr(asked, segmentation=seg).SOPInstanceUID == report.SOPInstanceUID


@pytest.mark.parametrize(
    ("name", "codes", "value", "scheme", "side"),
    [
        ("brainstem", {"SCT": "15926001"}, "119238007", "SCT", None),
        ("right kidney", {"SCT": "9846003"}, "64033007", "SCT", "Right"),
        ("spinal cord", {}, "2748008", "SCT", None),
        ("unheard-of", {"SCT": "123"}, "123", "SCT", None),
        ("left eye", {}, "81745001", "SCT", "Left"),
        ("vertebra L1", {}, "66794005", "SCT", None),
        ("vertebra", {}, "51282000", "SCT", None),
        ("kidney tumor", {}, "108369006", "SCT", None),
        ("left kidney cyst", {}, "367643001", "SCT", "Left"),
        ("metastatic cervical lymph nodes", {}, "14799000", "SCT", None),
        ("left unheard-of", {}, "LEFT_UNHEARD_OF", PRIVATE_SCHEME, "Left"),
    ],
)
def test_codes(name: str, codes: dict[str, str], value: str, scheme: str, side: str | None) -> None:
    found, modifier = type_of(name, codes)
    assert (found.value, found.scheme_designator) == (value, scheme)
    assert (None if modifier is None else modifier.meaning) == side


def test_the_observation_of_a_lesion_is_a_tumour_volume(volume: Volume, tmp_path: Path) -> None:
    image = series(write(slices_of(volume), tmp_path / "s"))
    lesion = DicomStructure(value=3, name="soft tissue sarcoma", color=(1, 2, 3))
    ds = make_rtstruct(request(image, structures=[lesion]))
    assert ds.RTROIObservationsSequence[0].RTROIInterpretedType == "GTV"
