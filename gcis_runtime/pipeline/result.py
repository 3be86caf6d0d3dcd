"""What a segmentation is: labels on the image's own grid, with measures, times and where it came from."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from numpy.typing import NDArray

from gcis_runtime.bundles.manifest import Label
from gcis_runtime.engines.info import EngineInfo
from gcis_runtime.errors import OutputError
from gcis_runtime.images.files import write_labels, write_probability
from gcis_runtime.images.itk import itk_image, load_simpleitk
from gcis_runtime.images.nifti import label_image
from gcis_runtime.images.volume import Volume
from gcis_runtime.sliding.label_sink import StructureMaps
from gcis_runtime.system.atomic_files import replacing


@dataclass(frozen=True, kw_only=True)
class Structure:
    """One structure of a label map.

    Attributes:
        value: Its value in the label map.
        name: Its name.
        prompt: The prompt that it was segmented with.
        color: Red, green, blue in 0 to 255.
        codes: Codes of terminologies.
        voxels: Voxels of that value.
        volume_ml: Their volume in mL.
    """

    value: int
    name: str
    prompt: str
    color: tuple[int, int, int]
    codes: dict[str, str]
    voxels: int
    volume_ml: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Segmentation:
    """A segmented volume.

    Attributes:
        labels: Label values, (X, Y, Z) on the volume's grid, uint8 or uint16.
        volume: The image.
        structures: Measures of each structure, by the bundle's order.
        restore: How labels came to the volume's grid: `"smooth"` or `"nearest"`.
        seconds: Time of each stage: preprocess, network, blend, restore.
        windows: Windows in all.
        windows_reused: Windows that were constant and answered from an earlier one.
        windows_skipped: Windows beside these, which lie outside the region that was asked for.
        region: Part of the volume that was worked on, where it came from, and that labels outside are
            background; empty where it was all of it.
        crop: Box of the network's grid that the bundle's foreground rule left, first index and end along each
            axis (None: all was air), and the windows that this saved; empty without a rule.
        forecast: What was predicted before the start, and under `measured` what it then was.
        steps: What was given up for want of memory, one line a step: batch, engine, device, way to restore.
        peak_memory: Most memory that the process has had resident, bytes; None where unknown.
        engine: What computed.
        bundle: The bundle's name.
        bundle_sha256: Hash of its manifest, which covers all its files.
        notice: What the bundle says about its use.
        warnings: What is odd about the image.
        masks: Where each structure's logit is positive, by label value; None unless asked for.
        probabilities: Sigmoid of each structure's logit times 255, by label value; None unless asked for.
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
        """Write the label map with the image's geometry, whole or not at all: NIfTI, NRRD or MHA by suffix.

        Raises:
            OutputError: The file cannot be written.
        """
        write_labels(path, self.labels, like=self.volume)

    def save_masks(self, folder: str | os.PathLike[str], *, suffix: str = ".nii.gz") -> dict[str, str]:
        """Write each structure's mask: 1 where its logit is positive, even if another's is larger.

        Args:
            folder: Takes `NAME` + `suffix` of each structure; every file appears whole or not at all.
            suffix: `.nii.gz`, `.nii`, `.nrrd` or `.mha`.

        Returns:
            Path of each structure's file by its name.

        Raises:
            OutputError: A file cannot be written, or the masks were not asked for.
        """
        if self.masks is None:
            raise OutputError("there are no masks to write", fix="Segment with masks=True.")
        return self._save_each(self.masks, Path(folder), suffix, write_labels)

    def save_probabilities(
        self, folder: str | os.PathLike[str], *, suffix: str = ".nii.gz"
    ) -> dict[str, str]:
        """Write each structure's foreground probability, 0 to 1 in steps of 1/255; see `save_masks`."""
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

    def report(self) -> dict[str, Any]:
        """Return everything but the voxels, ready for JSON."""
        return {
            "structures": [asdict(structure) for structure in self.structures],
            "bundle": {"name": self.bundle, "sha256": self.bundle_sha256},
            "engine": asdict(self.engine),
            "restore": self.restore,
            "seconds": {name: round(value, 4) for name, value in self.seconds.items()},
            "windows": {
                "total": self.windows,
                "reused": self.windows_reused,
                "skipped": self.windows_skipped,
            },
            "region": self.region,
            "crop": self.crop,
            "forecast": self.forecast,
            "steps": list(self.steps),
            "peak_memory_bytes": self.peak_memory,
            "warnings": list(self.warnings),
            "notice": self.notice,
        }


def measure(
    counts: Mapping[int, int], structures: Sequence[Label], *, voxel_ml: float
) -> tuple[Structure, ...]:
    """Say how large each structure is.

    Args:
        counts: Voxels of each label value.
        structures: The manifest's labels.
        voxel_ml: Volume of one voxel in mL.
    """
    return tuple(
        Structure(
            value=s.value,
            name=s.name,
            prompt=s.prompt,
            color=s.color,
            codes=dict(s.codes),
            voxels=counts[s.value],
            volume_ml=round(counts[s.value] * voxel_ml, 4),
        )
        for s in structures
    )


def _file_names(structures: Sequence[Structure]) -> list[str]:
    """Return a distinct file name for each structure: its name in letters, digits and dashes."""
    names = [re.sub(r"[^\w]+", "-", s.name.lower()).strip("-") or "structure" for s in structures]
    if len(set(names)) < len(names):
        names = [f"{name}-{s.value}" for name, s in zip(names, structures, strict=True)]
    return names


def write_report(path: Path, report: dict[str, Any]) -> None:
    """Write a report as indented JSON, whole or not at all.

    Raises:
        OutputError: The file cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n")
