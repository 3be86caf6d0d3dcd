"""Define the parts of the report of a segmented image; `report.py` combines them."""

from __future__ import annotations

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

Ranges = list[tuple[int, int]]
"""First index and end (exclusive) along each axis."""


class Statistics(msgspec.Struct, frozen=True, kw_only=True):
    """Measurements of one structure in a label map.

    Attributes:
        voxels: Number of voxels.
        volume_ml: Their volume in mL.
        mean_hu: Mean of the image over the voxels, HU; None without voxels.
        sd_hu: Standard deviation over the voxels (divided by their number), HU; None without voxels.
        box_min_mm: Lowest corner of the box that encloses the voxels, in mm along the patient's axes right,
            anterior, superior (NIfTI's RAS+); None without voxels.
        box_max_mm: Highest corner of that box.
        touches_edge: Whether a voxel lies in the first or last plane of an axis of the image, so that the
            structure may continue outside.
    """

    voxels: int
    volume_ml: float
    mean_hu: float | None
    sd_hu: float | None
    box_min_mm: tuple[float, float, float] | None
    box_max_mm: tuple[float, float, float] | None
    touches_edge: bool


class PostReport(msgspec.Struct, frozen=True, kw_only=True):
    """What post-processing rules changed: the rules in their order, and the voxels removed and added."""

    rules: str
    removed: int
    added: int


class StructureReport(msgspec.Struct, frozen=True, kw_only=True):
    """One structure of the label map.

    Attributes:
        value: Label value.
        name: Name.
        prompt: Text prompt.
        color: Red, green and blue, 0 to 255.
        codes: Codes of terminologies.
        voxels: Number of voxels with this label value.
        volume_ml: Their volume in mL.
        statistics: Measurements, if the run computed them.
        dice: Dice against the true label map, 0 to 1; None if that lacks the structure, unset without one.
        post: Change by the bundle's post-processing rules; unset if none were applied.
    """

    value: int
    name: str
    prompt: str = ""
    color: tuple[int, int, int] = (0, 0, 0)
    codes: dict[str, str] = {}
    voxels: int = 0
    volume_ml: float
    statistics: Statistics | UnsetType = UNSET
    dice: float | UnsetType | None = UNSET
    post: PostReport | UnsetType = UNSET


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """Something to check about a structure.

    Attributes:
        value: Label value of the structure.
        short: A few words, for tables.
        text: The observation with its numbers, and why it is marked.
    """

    value: int
    short: str
    text: str


class BundleReport(msgspec.Struct, frozen=True, kw_only=True):
    """The bundle: name, and hash of its manifest, which covers all its files."""

    name: str
    sha256: str


class EngineReport(msgspec.Struct, frozen=True, kw_only=True):
    """The engine that computed: name, version, device, precision, and CPU threads (0 on other devices).

    `reason` says why the precision was selected; empty if there was no choice. `settings` says which settings
    ONNX Runtime uses on a GPU, and why; empty for other engines.
    """

    name: str
    version: str
    device: str
    precision: str
    threads: int
    reason: str = ""
    settings: str = ""


class WindowsReport(msgspec.Struct, frozen=True, kw_only=True):
    """Numbers of windows.

    Attributes:
        total: Windows in the plan.
        reused: Those that were constant and took the logits of an earlier one.
        skipped: Further windows, outside the region.
    """

    total: int
    reused: int = 0
    skipped: int = 0


class FoundStructure(msgspec.Struct, frozen=True, kw_only=True):
    """A structure that a coarse pass found, and the box around it in voxels of the file."""

    name: str
    box: Ranges


class CoarseReport(msgspec.Struct, frozen=True, kw_only=True):
    """A coarse pass: how it was computed, seconds, windows, and the structures that it found and missed."""

    how: str
    seconds: float
    windows: int
    found: list[FoundStructure]
    missing: list[str]


class RegionReport(msgspec.Struct, frozen=True, kw_only=True):
    """The part of the volume that was computed. All fields are unset if it was the whole volume.

    Attributes:
        roi_structure: The pass that located the structure of `--roi`.
        coarse: The coarse pass.
        within: Description of the region.
        box: Box around the region, in voxels of the file; None if the region is empty.
        boxes: Number of boxes in the region.
        outside: The label outside the region.
    """

    roi_structure: CoarseReport | UnsetType = UNSET
    coarse: CoarseReport | UnsetType = UNSET
    within: str | UnsetType = UNSET
    box: Ranges | UnsetType | None = UNSET
    boxes: int | UnsetType = UNSET
    outside: Literal["background"] | UnsetType = UNSET


class CropReport(msgspec.Struct, frozen=True, kw_only=True):
    """The crop by the bundle's foreground rule. All fields are unset without a rule.

    Attributes:
        margin: The rule's margin in voxels of the network's grid.
        grid: The network's grid (X, Y, Z) before the crop.
        box: The box that remained, in voxels of that grid; None if all was air.
        windows_of_whole_grid: Number of windows without the crop.
        windows_saved: Number of windows that the crop saved.
    """

    margin: int | UnsetType = UNSET
    grid: tuple[int, int, int] | UnsetType = UNSET
    box: Ranges | UnsetType | None = UNSET
    windows_of_whole_grid: int | UnsetType = UNSET
    windows_saved: int | UnsetType = UNSET


class MeasuredReport(msgspec.Struct, frozen=True, kw_only=True):
    """Measured seconds, peak memory of the process, and peak device memory, to compare with the forecast."""

    seconds: float
    host_bytes: int | None = None
    device_bytes: int | None = None


class ForecastReport(msgspec.Struct, frozen=True, kw_only=True):
    """The forecast of the run. All fields are unset without one.

    Attributes:
        windows: Number of windows.
        seconds: Time; None before the first run on this machine.
        host_bytes: Most resident memory of the process.
        device_bytes: Device memory; None on the CPU.
        file_bytes: Size of a temporary file; None without one.
        earlier_runs: Number of earlier runs that the forecast used.
        allowed_bytes: Memory limit; None without one.
        measured: The measured values.
    """

    windows: int | UnsetType = UNSET
    seconds: float | UnsetType | None = UNSET
    host_bytes: int | UnsetType = UNSET
    device_bytes: int | UnsetType | None = UNSET
    file_bytes: int | UnsetType | None = UNSET
    earlier_runs: int | UnsetType = UNSET
    allowed_bytes: int | UnsetType | None = UNSET
    measured: MeasuredReport | UnsetType = UNSET


class DicomReport(msgspec.Struct, frozen=True, kw_only=True):
    """The DICOM series that was segmented.

    Attributes:
        study: StudyInstanceUID.
        series: SeriesInstanceUID.
        slices: Number of slices.
        tilt_degrees: Angle between the slice normal and the direction of the stack.
        interpolated: Whether slices were interpolated to a regular grid.
        files: Path of each DICOM file by format: `dicom-seg`, `rtstruct`, `sr`.
    """

    study: str
    series: str
    slices: int
    tilt_degrees: float = 0.0
    interpolated: bool = False
    files: dict[str, str] = {}
