"""Define shapes by functions that return the signed distance in mm (negative inside) at points in mm.

Distances are approximate, but accurate close to the surface, where they determine partial volumes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Field = NDArray[np.float32]
Distance = Callable[[Field, Field, Field], Field]
Point = tuple[float, float, float]

_TABLE_STEP = 0.5
_FAR = 1e4


@dataclass(frozen=True, kw_only=True)
class Solid:
    """A shape and its bounding box in mm, in the same frame as its points."""

    low: Point
    high: Point
    distance: Distance

    def grown(self, margin: float) -> "Solid":
        """Return the shape with its surface moved outwards by `margin` mm (inwards if negative)."""
        low, high = _widen(self.low, self.high, max(margin, 0.0))
        return Solid(low=low, high=high, distance=lambda x, y, z: self.distance(x, y, z) - np.float32(margin))

    def shell(self, thickness: float) -> "Solid":
        """Return a wall of `thickness` mm that is centred on the surface."""
        low, high = _widen(self.low, self.high, thickness)
        half = np.float32(thickness / 2)
        return Solid(low=low, high=high, distance=lambda x, y, z: np.abs(self.distance(x, y, z)) - half)

    def without(self, other: "Solid") -> "Solid":
        """Return the difference of this shape and another one."""
        return Solid(
            low=self.low,
            high=self.high,
            distance=lambda x, y, z: np.maximum(self.distance(x, y, z), -other.distance(x, y, z)),
        )

    def within(self, other: "Solid") -> "Solid":
        """Return the intersection of this shape and another one."""
        return Solid(
            low=self.low,
            high=self.high,
            distance=lambda x, y, z: np.maximum(self.distance(x, y, z), other.distance(x, y, z)),
        )


def _widen(low: Point, high: Point, margin: float) -> tuple[Point, Point]:
    return (
        (low[0] - margin, low[1] - margin, low[2] - margin),
        (high[0] + margin, high[1] + margin, high[2] + margin),
    )


def _hull(points: NDArray[np.float64], margin: float) -> tuple[Point, Point]:
    low, high = points.min(axis=0), points.max(axis=0)
    return _widen(
        (float(low[0]), float(low[1]), float(low[2])),
        (float(high[0]), float(high[1]), float(high[2])),
        margin,
    )


def ellipsoid(centre: Point, radii: Point, *, tilt: float = 0.0) -> Solid:
    """Return an ellipsoid, rotated about the x axis by `tilt` degrees (positive: top backwards)."""
    cx, cy, cz = centre
    rx, ry, rz = radii
    cos, sin = float(np.cos(np.deg2rad(tilt))), float(np.sin(np.deg2rad(tilt)))

    def distance(x: Field, y: Field, z: Field) -> Field:
        dx, dy, dz = x - cx, y - cy, z - cz
        if tilt:
            dy, dz = cos * dy + sin * dz, cos * dz - sin * dy
        dx, dy, dz = dx / rx, dy / ry, dz / rz
        k = np.sqrt(dx * dx + dy * dy + dz * dz)
        dx, dy, dz = dx / rx, dy / ry, dz / rz
        return np.asarray(k * (k - 1) / (np.sqrt(dx * dx + dy * dy + dz * dz) + 1e-6), np.float32)

    reach = max(ry, rz) if tilt else 0.0
    low = (cx - rx, cy - max(ry, reach), cz - max(rz, reach))
    high = (cx + rx, cy + max(ry, reach), cz + max(rz, reach))
    return Solid(low=low, high=high, distance=distance)


def tube(points: Sequence[Point], radii: Sequence[float] | float) -> Solid:
    """Return a tube through points, with the radius interpolated between them."""
    nodes = np.asarray(points, np.float64)
    thick = np.broadcast_to(np.asarray(radii, np.float64), (len(nodes),))

    def distance(x: Field, y: Field, z: Field) -> Field:
        best: Field | None = None
        for a, b, ra, rb in zip(nodes[:-1], nodes[1:], thick[:-1], thick[1:], strict=True):
            ux, uy, uz = (float(v) for v in b - a)
            px, py, pz = x - float(a[0]), y - float(a[1]), z - float(a[2])
            t = np.clip((px * ux + py * uy + pz * uz) / (ux * ux + uy * uy + uz * uz), 0, 1)
            px, py, pz = px - t * ux, py - t * uy, pz - t * uz
            d = np.sqrt(px * px + py * py + pz * pz) - (float(ra) + t * float(rb - ra))
            best = d if best is None else np.minimum(best, d)
        if best is None:
            raise ValueError(f"tube: received {len(nodes)} point(s), expected at least 2")
        return best

    low, high = _hull(nodes, float(thick.max()))
    return Solid(low=low, high=high, distance=distance)


class Table:
    """A smooth function of one coordinate in a lookup table, much faster than `np.interp` on a volume."""

    def __init__(self, knots: Sequence[float], values: Sequence[float], *, smooth: float = 8.0) -> None:
        order = np.argsort(knots)
        self._start = float(np.min(knots)) - 2 * smooth
        grid = np.arange(self._start, float(np.max(knots)) + 2 * smooth, _TABLE_STEP)
        dense = np.interp(grid, np.asarray(knots, float)[order], np.asarray(values, float)[order])
        width = int(smooth / _TABLE_STEP) | 1
        padded = np.pad(dense, width // 2, mode="edge")
        self._values = np.convolve(padded, np.ones(width) / width, mode="valid").astype(np.float32)

    def index(self, t: Field) -> NDArray[np.intp]:
        """Return table indices of `t`, which are valid for all tables with the same knots and smoothing."""
        raw = (t - np.float32(self._start)) * np.float32(1 / _TABLE_STEP)
        return np.asarray(np.clip(raw, 0, len(self._values) - 1), np.intp)

    def at(self, index: NDArray[np.intp]) -> Field:
        """Return the values at indices of `index`."""
        return np.asarray(self._values[index], np.float32)

    def __call__(self, t: Field) -> Field:
        """Return the values at `t`."""
        return self.at(self.index(t))


Row = tuple[float, float, float, float]


def loft(rows: Sequence[Row], *, centre_x: float = 0.0, egg: float = 0.0, smooth: float = 8.0) -> Solid:
    """Return a solid of elliptic cross-sections along z.

    Args:
        rows: (z, centre y, half width x, half depth y), in mm.
        centre_x: Centre of all sections, in mm.
        egg: Relative taper towards the front (0.2: 20 % narrower at the front, 20 % wider at the back).
        smooth: Length over which the profile is smoothed, in mm.
    """
    z_knots, cy, rx, ry = (list(column) for column in zip(*rows, strict=True))
    tables = [Table(z_knots, column, smooth=smooth) for column in (cy, rx, ry)]
    bottom, top = min(z_knots), max(z_knots)

    def distance(x: Field, y: Field, z: Field) -> Field:
        at = tables[0].index(z)
        ty, ax, ay = (table.at(at) for table in tables)
        dx, dy = x - centre_x, (y - ty) / ay
        if egg:
            ax = ax * np.clip(1 - egg * dy, 0.3, 2)
        dx = dx / ax
        k = np.sqrt(dx * dx + dy * dy)
        dx, dy = dx / ax, dy / ay
        inplane = k * (k - 1) / (np.sqrt(dx * dx + dy * dy) + 1e-6)
        return np.asarray(np.maximum(inplane, np.maximum(bottom - z, z - top)), np.float32)

    wide = max(rx) * (1 + abs(egg))
    low = (centre_x - wide, min(c - r for c, r in zip(cy, ry, strict=True)), bottom)
    high = (centre_x + wide, max(c + r for c, r in zip(cy, ry, strict=True)), top)
    return Solid(low=low, high=high, distance=distance)


BandRow = tuple[float, float, float, float, float]


def band(rows: Sequence[BandRow], *, rounding: float = 3.0) -> Solid:
    """Return an upright, rounded wall along a line in the axial plane, such as a jaw or a row of teeth.

    Args:
        rows: (x, y, bottom z, top z, half thickness), in mm, in order along the line.
        rounding: Radius of the edges, in mm.
    """
    nodes = np.asarray(rows, np.float64)

    def distance(x: Field, y: Field, z: Field) -> Field:
        best = np.full(np.broadcast(x, y, z).shape, _FAR, np.float32)
        for a, b in pairwise(nodes):
            ux, uy, dlow, dhigh, dthick = (float(v) for v in b - a)
            px, py = x - float(a[0]), y - float(a[1])
            t = np.clip((px * ux + py * uy) / (ux * ux + uy * uy), 0, 1)
            px, py = px - t * ux, py - t * uy
            low, high = float(a[2]) + t * dlow, float(a[3]) + t * dhigh
            across = np.sqrt(px * px + py * py) - (float(a[4]) + t * dthick) + rounding
            along = np.abs(z - (low + high) / 2) - (high - low) / 2 + rounding
            out = np.sqrt(np.maximum(across, 0) ** 2 + np.maximum(along, 0) ** 2)
            best = np.minimum(best, out + np.minimum(np.maximum(across, along), 0) - rounding)
        return best

    corners = np.concatenate([nodes[:, [0, 1, 2]], nodes[:, [0, 1, 3]]])
    low, high = _hull(corners, float(nodes[:, 4].max()))
    return Solid(low=low, high=high, distance=distance)


def union(solids: Sequence[Solid], *, blend: float = 0.0) -> Solid:
    """Return the union of shapes, with seams rounded over `blend` mm."""
    low, high = _hull(np.asarray([s.low for s in solids] + [s.high for s in solids], np.float64), blend / 4)

    def distance(x: Field, y: Field, z: Field) -> Field:
        result = solids[0].distance(x, y, z)
        for solid in solids[1:]:
            result = smooth_min(result, solid.distance(x, y, z), blend)
        return result

    return Solid(low=low, high=high, distance=distance)


def smooth_min(a: Field, b: Field, blend: float) -> Field:
    """Return the minimum of two distances, smoothed over `blend` mm (Quilez's polynomial form)."""
    if blend <= 0:
        return np.minimum(a, b)
    h = np.maximum(np.float32(blend) - np.abs(a - b), 0) / np.float32(blend)
    return np.asarray(np.minimum(a, b) - h * h * np.float32(blend / 4), np.float32)
