"""Group the files of a study into series, leave out what is not a CT image, and choose series."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from gcis_runtime.dicom.files import DicomFile, load_pydicom
from gcis_runtime.dicom.headers import Header, UnreadableDicomError, number_of, read_header, text_of
from gcis_runtime.errors import ImageError
from gcis_runtime.text import counted

CT_CLASSES = frozenset(
    {
        "1.2.840.10008.5.1.4.1.1.2",  # CT Image Storage
        "1.2.840.10008.5.1.4.1.1.2.1",  # Enhanced CT Image Storage
        "1.2.840.10008.5.1.4.1.1.2.2",  # Legacy Converted Enhanced CT Image Storage
    }
)
_THREADS = 4
_LISTED = 20


@dataclass(frozen=True, kw_only=True, eq=False)
class Series:
    """The CT images with one SeriesInstanceUID.

    Attributes:
        uid: SeriesInstanceUID.
        study_uid: StudyInstanceUID.
        number: SeriesNumber; empty if there is none.
        description: SeriesDescription.
        kernel: ConvolutionKernel.
        spacing: PixelSpacing as text.
        slices: Number of frames, including localiser frames of multi-frame files.
        voxel_bytes: Estimated memory of the voxels: 2 bytes each.
        files: Files in the order of their names.
        notes: What was left out of the study.
        headers: Headers of `files`; None if they are read again with the voxels, to save memory in a cohort.
    """

    uid: str
    study_uid: str
    number: str
    description: str
    kernel: str
    spacing: str
    slices: int
    voxel_bytes: int
    files: tuple[DicomFile, ...]
    notes: tuple[str, ...] = ()
    headers: tuple[Header, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Study:
    """The series of a study.

    Attributes:
        series: CT series, by number and UID.
    """

    series: tuple[Series, ...]


def read_study(files: Sequence[DicomFile], *, keep_headers: bool = False) -> Study:
    """Read all headers, and group the CT images by series.

    Args:
        files: Files of the study.
        keep_headers: Keep the headers, so that a series is read faster.

    Raises:
        ImageError: pydicom is missing, or no file is a CT image.
    """
    load_pydicom()
    left_out: Counter[str] = Counter()
    groups: dict[str, list[tuple[DicomFile, Header]]] = defaultdict(list)
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="gcis-dicom") as pool:
        for file, header in zip(files, pool.map(_header, files), strict=True):
            if isinstance(header, str):
                left_out[header] += 1
            elif reason := _reason(header.dataset):
                left_out[reason] += 1
            else:
                groups[text_of(header.dataset, "SeriesInstanceUID")].append((file, header))
    notes = tuple(f"{counted(count, 'file')} left out: {reason}" for reason, count in left_out.items())
    if not groups:
        raise ImageError(
            "the study has no CT image",
            received="; ".join(notes) or "no file",
            expected="a CT series",
            fix="Pass the folder of a CT study.",
        )
    found = [_series(uid, members, notes, keep_headers) for uid, members in groups.items()]
    return Study(series=tuple(sorted(found, key=_order)))


def _header(file: DicomFile) -> Header | str:
    try:
        return read_header(file)
    except UnreadableDicomError as error:
        return str(error)


def _reason(header: Any) -> str:
    """Return why an object is not segmented; empty for a CT image."""
    modality, sop_class = text_of(header, "Modality"), text_of(header, "SOPClassUID")
    if sop_class in CT_CLASSES and modality in ("CT", ""):
        if "LOCALIZER" in text_of(header, "ImageType").upper().split("\\"):
            return "localiser"
        return "" if text_of(header, "SeriesInstanceUID") else "no SeriesInstanceUID"
    if sop_class in CT_CLASSES:
        return f"modality {modality}"
    if not sop_class:
        return "no SOPClassUID"
    from pydicom.uid import UID  # noqa: PLC0415 (optional)

    return UID(sop_class).name if sop_class.startswith("1.2.840.10008.") else "private SOP class"


def _series(
    uid: str, members: list[tuple[DicomFile, Header]], notes: tuple[str, ...], keep_headers: bool
) -> Series:
    header = members[0][1].dataset
    return Series(
        uid=uid,
        study_uid=text_of(header, "StudyInstanceUID"),
        number=text_of(header, "SeriesNumber"),
        description=text_of(header, "SeriesDescription"),
        kernel=text_of(header, "ConvolutionKernel"),
        spacing=text_of(header, "PixelSpacing").replace("\\", " x "),
        slices=sum(int(number_of(h.dataset, "NumberOfFrames") or 1) for _, h in members),
        voxel_bytes=sum(2 * _voxels(h.dataset) for _, h in members),
        files=tuple(file for file, _ in members),
        notes=notes,
        headers=tuple(header for _, header in members) if keep_headers else None,
    )


def _voxels(header: Any) -> int:
    sides = [number_of(header, name) or 1 for name in ("Rows", "Columns", "NumberOfFrames")]
    return int(sides[0] * sides[1] * sides[2])


def _order(series: Series) -> tuple[float, str]:
    number = number_of({"n": series.number}, "n")
    return float("inf") if number is None else number, series.uid


def choose_series(study: Study, wanted: Sequence[str], *, every: bool) -> tuple[Series, ...]:
    """Return the series to segment.

    Args:
        study: The study.
        wanted: SeriesNumber or SeriesInstanceUID of each; empty takes the only series.
        every: Take all series.

    Raises:
        ImageError: Several series and no choice, or a choice that is unknown or ambiguous.
    """
    if every:
        return study.series
    if not wanted:
        if len(study.series) == 1:
            return study.series
        raise ImageError(
            f"the study has {len(study.series)} CT series",
            expected="one",
            fix=f"Choose with --series NUMBER or UID, or pass --all-series. {_listing(study)}",
        )
    chosen = []
    for key in wanted:
        found = [s for s in study.series if key.strip() in (s.uid, s.number)]
        if len(found) != 1:
            raise ImageError(
                f"--series {key} names {len(found)} of the {len(study.series)} CT series",
                expected="one",
                fix=f"Choose by UID. {_listing(study)}",
            )
        chosen.append(found[0])
    return tuple(dict.fromkeys(chosen))


def _listing(study: Study) -> str:
    """Describe the series in one line, since messages have one."""
    lines = []
    for series in study.series[:_LISTED]:
        lines.append(
            f"{series.number or '-'}: {series.description!r}, {series.slices} slices, "
            f"{series.spacing or '?'} mm, kernel {series.kernel or '?'}, UID {series.uid}"
        )
    more = len(study.series) - _LISTED
    return "; ".join(lines) + (f"; and {more} more" if more > 0 else "")
