"""A large CT-like volume with compact structures, for timing what lies outside the network."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from gcis_runtime.images.nifti import write_volume
from gcis_runtime.images.volume import Volume
from gcis_runtime.spec import Shape3, Triple

WINDOW = (-175.0, 250.0)
"""HU that become 0 and 1."""
_FIRST_LEVEL, _STEP, _BAND = 80.0, 22.0, 10.0


def write_big_volume(
    path: Path,
    *,
    shape: Shape3,
    spacing: Triple,
    structures: int,
    body: tuple[float, float] = (0.85, 0.6),
    seed: int = 0,
) -> None:
    """Write an int16 body in air with noise; structure `c` is an ellipsoid of its own HU (`levels`).

    Args:
        path: `.nii.gz` to write.
        shape: Voxels along X, Y, Z.
        spacing: Voxel size in mm; X and Y run to the patient's left and posterior, as scanners write.
        structures: How many ellipsoids.
        body: Half axes of the body's cross-section, as a share of half the image.
        seed: Of their places and the noise.
    """
    rng = np.random.default_rng(seed)
    array = np.empty(shape, dtype=np.int16, order="F")
    x, y = (np.linspace(-1, 1, n, dtype=np.float32) for n in shape[:2])
    inside_body = (x[:, None] / body[0]) ** 2 + (y[None, :] / body[1]) ** 2 < 1
    for z in range(shape[2]):
        plane = np.where(inside_body, np.float32(20), np.float32(-1000))
        array[..., z] = plane + rng.normal(0, 4, plane.shape).astype(np.float32)
    radii = rng.uniform(0.05, 0.12, (structures, 3)) * shape
    away = np.array([0.23 * body[0], 0.33 * body[1], 0.2])
    centres = (0.5 + rng.uniform(-1, 1, (structures, 3)) * away) * shape
    for level, radius, centre in zip(levels(structures), radii, centres, strict=True):
        low = np.maximum(centre - radius, 0).astype(int)
        high = np.minimum(centre + radius + 1, shape).astype(int)
        box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
        grid = np.ogrid[box]
        inside = sum(((g - c) / r) ** 2 for g, c, r in zip(grid, centre, radius, strict=True)) < 1
        part = array[box]
        part[inside] = level + rng.normal(0, 2, int(inside.sum()))
    affine = np.diag([-spacing[0], -spacing[1], spacing[2], 1.0])
    write_volume(path, Volume(array=array, affine=affine))


def levels(structures: int) -> list[float]:
    """Return the HU of each structure, 22 apart, repeated once the window is full."""
    return [_FIRST_LEVEL + _STEP * (c % 7) for c in range(structures)]


def logit_terms(structures: int) -> tuple[npt.NDArray[np.float32], float]:
    """Return each structure's level and half the band around it, both in the window's [0, 1].

    The trivial predictor's margin is `band - |image - level|`, one channel a structure.
    """
    low, high = WINDOW
    scaled = (np.array(levels(structures)) - low) / (high - low)
    return scaled.astype(np.float32), _BAND / (high - low)
