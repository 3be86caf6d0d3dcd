"""Warn about an image or a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from gcis_runtime.bundles.manifest import Label, Manifest
from gcis_runtime.grids.straight import oblique_degrees
from gcis_runtime.images.volume import Volume
from gcis_runtime.pipeline.post import PostChange
from gcis_runtime.spec import Shape3, WindowSpec
from gcis_runtime.system.memory import bytes_text

OBLIQUE_DEGREES = 15.0
"""Angle from which oblique axes are a warning. Two phantoms and three patients that were rotated about the
left-right axis lost a mean Dice of 0.03 at 15 degrees, 0.05 at 20 and 0.18 at 30 with the demo bundle."""

_SOFT, _LEAST_SOFT, _SAMPLES = (-140, 120), 0.3, 128
"""HU of fat and soft tissue; their least share of the voxels above -500 HU (in 207 CTs at least 0.72); about
the number of samples per axis."""

_DIRECTIONS = {
    "L": "left-right",
    "R": "left-right",
    "P": "front-back",
    "A": "front-back",
    "I": "head-feet",
    "S": "head-feet",
}


def image_warnings(volume: Volume, *, straightened: bool) -> tuple[str, ...]:
    """Return warnings about the intensities and axes of an image.

    Args:
        volume: The image.
        straightened: Whether it is segmented along the axes of the patient.
    """
    oblique = () if straightened else oblique_warnings(volume.affine)
    return (*intensity_warnings(volume.array), *oblique)


def intensity_warnings(array: NDArray[Any]) -> tuple[str, ...]:
    """Warn if values are unlike CT in HU, with air near -1000 and bone or contrast above 100.

    Args:
        array: Intensities (X, Y, Z).
    """
    low, high = float(array.min()), float(array.max())
    if low == high:
        return (f"every voxel is {low:g}: this is not a CT image",)
    if low >= 0:
        return (
            f"no value below 0 (range {low:g} to {high:g}): CT in HU has air near -1000 and soft tissue near"
            " 50; is it MR or PET, or was the rescale offset not added?",
        )
    if low > -500 or high < 100 or low < -10000 or high > 40000:
        return (f"values from {low:g} to {high:g} are unusual for CT in HU",)
    return _soft_tissue_warnings(array)


def _soft_tissue_warnings(array: NDArray[Any]) -> tuple[str, ...]:
    """Warn if few of the voxels above lung are fat or soft tissue."""
    steps = [max(1, n // _SAMPLES) for n in array.shape]
    sample = array[tuple(slice(None, None, step) for step in steps)]
    dense = sample[sample > -500]
    share = float(np.mean((dense >= _SOFT[0]) & (dense <= _SOFT[1]))) if dense.size else 0.0
    if share >= _LEAST_SOFT:
        return ()
    seen = "no voxel is above -500 HU"
    if dense.size:
        counts, edges = np.histogram(dense, bins=200)
        peak = int(counts.argmax())
        seen = f"the most frequent values above -500 are {edges[peak]:.0f} to {edges[peak + 1]:.0f}"
    return (
        f"{share:.0%} of the voxels above -500 HU are fat or soft tissue ({_SOFT[0]} to {_SOFT[1]} HU),"
        f" expected at least {_LEAST_SOFT:.0%}: {seen}; is it CT in HU?",
    )


def context_warnings(shape: Shape3, affine: NDArray[np.float64], window: WindowSpec) -> tuple[str, ...]:
    """Warn if the field of view is smaller than the window that the network was trained with.

    During training, a window showed the surroundings of each structure. If the image is smaller than a
    window, padding fills the rest, and the network sees less of the surroundings than during training.

    Args:
        shape: Shape of the image on the network's grid (X, Y, Z).
        affine: (4, 4), network voxel index to RAS+ mm.
        window: The bundle's window.
    """
    spacing = np.linalg.norm(affine[:3, :3], axis=0)
    codes = nib.aff2axcodes(affine, labels=(("L", "R"), ("P", "A"), ("I", "S")))
    short = [
        f"{n * s:.0f} of {r * s:.0f} mm {_DIRECTIONS[code]}"
        for n, r, s, code in zip(shape, window.patch_size, spacing, codes, strict=True)
        if n < r
    ]
    if not short:
        return ()
    return (f"the field of view is smaller than the window that was trained: {', '.join(short)}",)


def oblique_warnings(affine: NDArray[np.float64]) -> tuple[str, ...]:
    """Warn if the axes of the image are far from those of the patient, which the network was trained along.

    Args:
        affine: (4, 4), voxel index to RAS+ mm.
    """
    angle = oblique_degrees(affine)
    if angle < OBLIQUE_DEGREES:
        return ()
    return (
        f"the axes of the image are {angle:.0f} degrees off those of the patient: the network was trained "
        "along the patient's axes, and may be less accurate; use --straighten (in Python straighten=True)",
    )


def nothing_found_warnings(labels: Sequence[Label], counts: Mapping[int, int]) -> tuple[str, ...]:
    """Warn if no structure was found.

    Args:
        labels: The manifest's labels of the structures that were segmented.
        counts: Number of voxels of each label value.
    """
    if any(counts[label.value] for label in labels):
        return ()
    return (f"nothing was found of: {', '.join(label.name for label in labels)}",)


def untrained_warnings(manifest: Manifest, channels: Sequence[int]) -> tuple[str, ...]:
    """Warn about structures whose prompt the network was not trained with.

    Args:
        manifest: The bundle's manifest.
        channels: Graph channels of the structures that are segmented.
    """
    names = [repr(manifest.pathways[c].prompt) for c in channels if manifest.pathways[c].untrained is True]
    return (f"the network was not trained with the prompt {', '.join(names)}",) if names else ()


def post_warnings(
    labels: Sequence[Label], counts: Mapping[int, int], changes: Mapping[int, PostChange], *, part: bool
) -> tuple[str, ...]:
    """Warn if post-processing removed a structure, or was applied to a part of the volume.

    Args:
        labels: The manifest's labels.
        counts: Number of voxels of each label value before post-processing.
        changes: What post-processing changed, by label value.
        part: Whether only a part of the volume was computed.
    """
    warnings = [
        f"the post-processing rules {change.rules} removed every voxel of {label.name!r}"
        for label in labels
        if (change := changes.get(label.value)) and 0 < counts[label.value] <= change.removed
    ]
    if part and changes:
        warnings.append(
            "post-processing rules were applied to the computed part: labels may differ from those of a"
            " complete run"
        )
    return tuple(warnings)


def limit_warnings(before: int | None, peak: int | None, allowed: int | None) -> tuple[str, ...]:
    """Warn if a run used more memory than allowed although the forecast was lower.

    Args:
        before: Peak memory of the process before the run, bytes; None if unknown.
        peak: Peak memory after it, bytes; None if unknown.
        allowed: Memory limit in bytes; None without one.
    """
    if before is None or peak is None or allowed is None or peak <= max(before, allowed):
        return ()
    return (f"the run took {bytes_text(peak)} of memory, {bytes_text(allowed)} were allowed",)
