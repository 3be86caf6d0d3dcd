"""Simulate the acquisition: field of view, table, head rest, mask, blur, streaks, noise, rounding."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.demo.phantom.canvas import Canvas, Grid
from gcis_runtime.demo.phantom.shapes import Field

_Rng = np.random.Generator


@dataclass(frozen=True, kw_only=True)
class Scan:
    """Field of view (mm, relative to the brain stem) and image quality of an acquisition."""

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    table: bool
    rest: bool
    mask: bool
    exact_air: bool
    noise: float
    grain: float
    blur: float
    streak: float


def draw_scan(rng: _Rng, scale: float) -> Scan:
    """Draw the parameters of an acquisition. All seven structures are always in the field of view."""
    whole = bool(rng.random() < 0.5)
    half = float(rng.uniform(225, 262)) if whole else float(rng.uniform(125, 225))
    top = float(rng.uniform(95, 125) if rng.random() < 0.3 else rng.uniform(32, 95))
    bottom = float(rng.uniform(-275, -205))
    back, front = float(rng.uniform(-190, -128)), float(rng.uniform(138, 160))
    return Scan(
        low=(-half * scale, back * scale, bottom * scale),
        high=(half * scale, front * scale, top * scale),
        table=bool(rng.random() < 0.5),
        rest=bool(rng.random() < 0.5),
        mask=bool(rng.random() < 0.4),
        exact_air=bool(rng.random() < 0.7),
        noise=float(rng.uniform(5, 24)),
        grain=float(rng.uniform(0.8, 2.6)),
        blur=float(rng.uniform(0.6, 1.8)),
        streak=float(rng.uniform(60, 350)),
    )


def make_grid(scan: Scan, spacing: tuple[float, float, float]) -> Grid:
    """Return the voxel grid that covers the field of view."""
    shape = [
        max(8, round((h - low) / step)) for low, h, step in zip(scan.low, scan.high, spacing, strict=True)
    ]
    origin = [low + step / 2 for low, step in zip(scan.low, spacing, strict=True)]
    return Grid(
        origin=(origin[0], origin[1], origin[2]), spacing=spacing, shape=(shape[0], shape[1], shape[2])
    )


def blur(volume: Field, sigma_mm: float, spacing: tuple[float, float, float]) -> Field:
    """Apply a separable Gaussian filter of `sigma_mm`, with borders repeated."""
    for axis, step in enumerate(spacing):
        sigma = sigma_mm / step
        radius = int(3 * sigma + 0.5)
        if radius < 1:
            continue
        taps = np.exp(-0.5 * (np.arange(-radius, radius + 1) / sigma) ** 2)
        taps = (taps / taps.sum()).astype(np.float32)
        pad = [(radius, radius) if a == axis else (0, 0) for a in range(3)]
        wide = np.pad(volume, pad, mode="edge")
        size = volume.shape[axis]
        out = np.zeros_like(volume)
        for i, tap in enumerate(taps):
            cut = tuple(slice(i, i + size) if a == axis else slice(None) for a in range(3))
            out += tap * wide[cut]
        volume = out
    return volume


def paint_devices(canvas: Canvas, scan: Scan, skin: Field) -> None:
    """Paint table top, head rest and thermoplastic mask outside the body."""
    x, y, z = (canvas.grid.axis(i) for i in range(3))
    free = canvas.cover(-skin)
    rows = np.flatnonzero((skin < 0).any(axis=(0, 2)))
    back = canvas.grid.origin[1] + canvas.grid.spacing[1] * float(rows[0])
    if scan.table:
        depth = np.abs(y - (back - 14))
        for half, hu in ((12.0, 350.0), (8.0, -930.0)):  # a stiff shell around foam
            d = np.maximum(depth - half, np.abs(x) - 210 - half) + 0 * z
            canvas.ct += canvas.cover(np.asarray(d, np.float32)) * free * (np.float32(hu) - canvas.ct)
    if scan.rest:
        cup = np.abs(skin - 9) - 5
        d = np.maximum(np.maximum(cup, y + 20), np.maximum(-60 - z, np.abs(x) - 70))
        canvas.ct += canvas.cover(np.asarray(d, np.float32)) * free * (-650 - canvas.ct)
    if scan.mask:
        d = np.maximum(np.abs(skin - 2.5) - 1.2, np.maximum(15 - y, -120 - z))
        canvas.ct += canvas.cover(np.asarray(d, np.float32)) * free * (-60 - canvas.ct) * 0.7


def streaks(
    canvas: Canvas, spots: list[tuple[float, float, float]], height: float, rng: _Rng
) -> Field | None:
    """Return bright and dark streaks around metal in the teeth (HU), or None if no metal is in the volume."""
    x, y, z = canvas.frames["head"]
    total: Field | None = None
    for sx, sy, sz in spots:
        phases, folds = rng.uniform(0, 2 * np.pi, 3), rng.integers(3, 15, 3)
        near = np.flatnonzero((np.abs(z - sz) < 14).any(axis=(0, 1)))
        if not len(near):
            continue
        cut = (slice(None), slice(None), slice(int(near[0]), int(near[-1]) + 1))
        dx, dy = x[cut] - sx, y[cut] - sy
        angle, radius = np.arctan2(dy, dx), np.sqrt(dx * dx + dy * dy)
        rays = sum(np.cos(int(f) * angle + p) for f, p in zip(folds, phases, strict=True))
        fall = np.exp(-radius / 45 - ((z[cut] - sz) / 5) ** 2) * (radius > 5)
        total = np.zeros_like(canvas.ct) if total is None else total
        total[cut] += np.float32(height / len(spots)) * rays * fall
    return total


def acquire(
    canvas: Canvas, scan: Scan, skin: Field, spots: list[tuple[float, float, float]], rng: _Rng
) -> NDArray[np.int16]:
    """Return the CT as int16 HU after blur, streaks, noise and rounding."""
    step = canvas.grid.spacing
    ct = blur(canvas.ct, scan.blur, step)
    rays = streaks(canvas, spots, scan.streak, rng)
    if rays is not None:
        ct += rays
    noise = rng.standard_normal(ct.shape, dtype=np.float32)
    noise = blur(noise, scan.grain, step)
    ct += noise * np.float32(scan.noise / max(float(noise.std()), 1e-6))
    if scan.exact_air:
        outside = (skin > 0.5 * min(step)) & (canvas.ct < -700)
        ct[outside] = -1000
    return np.clip(np.round(ct), -1024, 3071).astype(np.int16)
