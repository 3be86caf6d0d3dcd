"""Define the result of a segmentation: labels on the image's grid, measurements, times and provenance."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET
from numpy.typing import NDArray

from gcis_runtime.bundles.manifest import Label
from gcis_runtime.engines.info import EngineInfo
from gcis_runtime.errors import OutputError
from gcis_runtime.images.files import write_labels, write_probability
from gcis_runtime.images.itk import itk_image, load_simpleitk
from gcis_runtime.images.nifti import label_image
from gcis_runtime.images.volume import Volume
from gcis_runtime.pipeline.post import PostChange
from gcis_runtime.pipeline.report import Report
from gcis_runtime.pipeline.report_parts import (
    BundleReport,
    CropReport,
    EngineReport,
    ForecastReport,
    RegionReport,
    StructureReport,
    WindowsReport,
)
from gcis_runtime.sliding.label_sink import StructureMaps


@dataclass(frozen=True, kw_only=True)
class Structure:
    """One structure of a label map.

    Attributes:
        value: Label value.
        name: Name.
        prompt: Text prompt.
        color: Red, green and blue, 0 to 255.
        codes: Codes of terminologies.
        voxels: Number of voxels with this label value.
        volume_ml: Their volume in mL.
        post: Change by the bundle's post-processing rules; None if none were applied.
    """

    value: int
    name: str
    prompt: str
    color: tuple[int, int, int]
    codes: dict[str, str]
    voxels: int
    volume_ml: float
    post: PostChange | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Segmentation:
    """A segmented volume.

    Attributes:
        labels: Label values, (X, Y, Z) on the volume's grid, uint8 or uint16.
        volume: The image.
        structures: Measurements of each structure, in the bundle's order.
        restore: How labels were resampled to the volume's grid: `"smooth"`, `"nearest"` or `"published"`.
        seconds: Seconds per stage: preprocess, network, blend, restore, and post if rules were applied.
        windows: Number of windows.
        windows_reused: Number of constant windows, which took the logits of an earlier one.
        windows_skipped: Number of further windows, outside the region.
        region: The part of the volume that was computed, and that labels outside are background, as in the
            report; empty for the whole volume.
        crop: Box of the network's grid that the bundle's foreground rule left, first index and end along each
            axis (None if all was air), and the number of windows saved; empty without a rule.
        straightened: Angle in degrees between the axes of the image and those of the network grid, which are
            the patient's; None if the network grid had the axes of the image.
        forecast: The forecast, and under `measured` the measured values.
        steps: One line per step taken for lack of memory: batch, engine, device, resampling of labels.
        peak_memory: Peak resident memory of the process in bytes; None if unknown.
        engine: The engine that computed.
        bundle: Name of the bundle.
        bundle_sha256: Hash of its manifest, which covers all its files.
        notice: The bundle's notice about its use.
        warnings: Warnings about the image or the run.
        masks: By label value, where the structure's logit is positive, with the structure's rules applied to
            the mask by itself; None unless requested.
        probabilities: By label value, the sigmoid of the structure's logit times 255; None unless requested.
    """

    labels: NDArray[Any]
    volume: Volume
    structures: tuple[Structure, ...]
    restore: str
    seconds: dict[str, float]
    windows: int
    windows_reused: int
    peak_memory: int | None
    engine: EngineInfo
    bundle: str
    bundle_sha256: str
    notice: str
    windows_skipped: int = 0
    region: dict[str, Any] = field(default_factory=dict)
    crop: dict[str, Any] = field(default_factory=dict)
    straightened: float | None = None
    forecast: dict[str, Any] = field(default_factory=dict)
    steps: tuple[str, ...] = ()
    warnings: tuple[str, ...] = field(default=())
    masks: StructureMaps | None = None
    probabilities: StructureMaps | None = None

    def to_nibabel(self) -> Any:
        """Return the label map as a nibabel image with exactly the geometry of the image."""
        return label_image(self.labels, like=self.volume)

    def to_simpleitk(self) -> Any:
        """Return the label map as a SimpleITK image on the image's grid.

        Raises:
            ImageError: SimpleITK is missing.
        """
        return itk_image(self.labels, like=self.volume, sitk=load_simpleitk(Path("to_simpleitk()")))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the label map with the image's geometry as NIfTI, NRRD or MHA, by suffix.

        The file is written atomically.

        Raises:
            OutputError: The file cannot be written.
        """
        write_labels(path, self.labels, like=self.volume)

    def save_masks(self, folder: str | os.PathLike[str], *, suffix: str = ".nii.gz") -> dict[str, str]:
        """Write one mask per structure: 1 where its logit is positive, even if another structure's is larger.

        Args:
            folder: Folder for the files `NAME` + `suffix`; every file is written atomically.
            suffix: `.nii.gz`, `.nii`, `.nrrd` or `.mha`.

        Returns:
            Path of each structure's file by the structure's name.

        Raises:
            OutputError: A file cannot be written, or the masks were not requested.
        """
        if self.masks is None:
            raise OutputError("there are no masks to write", fix="Segment with masks=True.")
        return self._save_each(self.masks, Path(folder), suffix, write_labels)

    def save_probabilities(
        self, folder: str | os.PathLike[str], *, suffix: str = ".nii.gz"
    ) -> dict[str, str]:
        """Write one probability map per structure, 0 to 1 in steps of 1/255; see `save_masks`."""
        if self.probabilities is None:
            raise OutputError("there are no probabilities to write", fix="Segment with probabilities=True.")
        return self._save_each(self.probabilities, Path(folder), suffix, write_probability)

    def _save_each(
        self, maps: StructureMaps, folder: Path, suffix: str, write: Callable[..., None]
    ) -> dict[str, str]:
        paths: dict[str, str] = {}
        for structure, name in zip(self.structures, _file_names(self.structures), strict=True):
            path = folder / f"{name}{suffix}"
            write(path, maps[structure.value], like=self.volume)
            paths[structure.name] = str(path)
        return paths

    def report(self) -> Report:
        """Return everything except the voxels."""
        return Report(
            structures=[_structure_report(s) for s in self.structures],
            bundle=BundleReport(name=self.bundle, sha256=self.bundle_sha256),
            engine=EngineReport(**asdict(self.engine)),
            restore=self.restore,
            seconds={name: round(value, 4) for name, value in self.seconds.items()},
            windows=WindowsReport(
                total=self.windows, reused=self.windows_reused, skipped=self.windows_skipped
            ),
            region=msgspec.convert(self.region, RegionReport),
            crop=msgspec.convert(self.crop, CropReport),
            straightened=UNSET if self.straightened is None else self.straightened,
            forecast=msgspec.convert(self.forecast, ForecastReport),
            steps=list(self.steps),
            peak_memory_bytes=self.peak_memory,
            warnings=list(self.warnings),
            notice=self.notice,
        )


def _structure_report(structure: Structure) -> StructureReport:
    fields = {name: value for name, value in asdict(structure).items() if value is not None}
    return msgspec.convert(fields, StructureReport)


def measure(
    counts: Mapping[int, int],
    structures: Sequence[Label],
    *,
    voxel_ml: float,
    changes: Mapping[int, PostChange] | None = None,
) -> tuple[Structure, ...]:
    """Return the size of each structure.

    Args:
        counts: Number of voxels of each label value before post-processing.
        structures: The manifest's labels.
        voxel_ml: Volume of one voxel in mL.
        changes: Change of each structure by post-processing; None without post-processing.
    """
    changes = changes or {}
    voxels = dict(counts)
    for value, change in changes.items():
        voxels[value] += change.added - change.removed
    return tuple(
        Structure(
            value=s.value,
            name=s.name,
            prompt=s.prompt,
            color=s.color,
            codes=dict(s.codes),
            voxels=voxels[s.value],
            volume_ml=round(voxels[s.value] * voxel_ml, 4),
            post=changes.get(s.value),
        )
        for s in structures
    )


def _file_names(structures: Sequence[Structure]) -> list[str]:
    """Return a distinct file name per structure: its name in letters, digits and dashes."""
    names = [re.sub(r"[^\w]+", "-", s.name.lower()).strip("-") or "structure" for s in structures]
    if len(set(names)) < len(names):
        names = [f"{name}-{s.value}" for name, s in zip(names, structures, strict=True)]
    return names
