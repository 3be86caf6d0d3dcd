"""Paint shapes on a voxel grid, with the coordinates of every voxel in anatomical frames."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.demo.phantom.shapes import Field, Solid, Table
from gcis_runtime.demo.phantom.subject import Subject

Frame = Literal["head", "neck"]
_COARSE = 4

# Position of the cord in front of (+) or behind (-) the centre of the brain stem along z, in mm.
_SPINE_Z = (40.0, -25.0, -70.0, -110.0, -150.0, -190.0, -230.0, -300.0)
_SPINE_Y = (-5.0, -6.0, -10.0, -13.0, -24.0, -41.0, -60.0, -85.0)
_PIVOT_Z = -85.0
_NECK_START = -55.0


@dataclass(frozen=True, kw_only=True)
class Grid:
    """Grid of voxel centres in mm: `origin + index * spacing`, axes Right, Anterior, Superior."""

    origin: tuple[float, float, float]
    spacing: tuple[float, float, float]
    shape: tuple[int, int, int]

    def axis(self, i: int) -> Field:
        """Return the coordinates along axis `i` in mm, with a shape that broadcasts over the volume."""
        line = (self.origin[i] + self.spacing[i] * np.arange(self.shape[i])).astype(np.float32)
        return line.reshape([-1 if a == i else 1 for a in range(3)])


def _rotate(a: Field, b: Field, degrees: float, weight: Field) -> tuple[Field, Field]:
    angle = weight * np.float32(np.deg2rad(degrees))
    cos, sin = np.cos(angle), np.sin(angle)
    return cos * a - sin * b, sin * a + cos * b


def anatomical(grid: Grid, subject: Subject) -> dict[Frame, tuple[Field, Field, Field]]:
    """Return voxel coordinates in the head and neck frames (neck: x and y from the centre of the cord)."""
    inverse = np.float32(1 / subject.scale)
    x, y, z = (grid.axis(i) * inverse for i in range(3))
    ramp = np.clip((z + 160) / 130, 0, 1)
    weight = np.asarray(ramp * ramp * (3 - 2 * ramp), np.float32)
    shape = grid.shape
    for amount, length, first, second in subject.ripples:
        k = np.float32(2 * np.pi / length)
        x, y = (
            x + np.float32(amount) * np.sin(k * y + first) * np.sin(k * z + second),
            y + np.float32(0.7 * amount) * np.sin(k * x + second) * np.sin(k * z + first),
        )
    z = z - _PIVOT_Z
    y, z = _rotate(y, z, -subject.pitch, weight)
    x, z = _rotate(x, z, subject.roll, weight)
    x, y = _rotate(x, y, subject.yaw, weight)
    z = z + _PIVOT_Z
    below = np.minimum(z - _NECK_START, 0)
    z = z + below * np.float32(1 / subject.neck_stretch - 1)
    x, y, z = (np.ascontiguousarray(np.broadcast_to(c, shape), np.float32) for c in (x, y, z))
    upper, lower, lateral = subject.curve
    bend = (0, 0, 0.4 * upper, upper, 0.6 * upper, lower, 0.8 * lower, 0)
    spine_y = Table(_SPINE_Z, [y0 + dy for y0, dy in zip(_SPINE_Y, bend, strict=True)], smooth=40)
    spine_x = Table((0, -60, -130, -200, -260), (0, 0, lateral, 0, 0), smooth=40)
    at = spine_y.index(z)
    return {"head": (x, y, z), "neck": (x - spine_x(z), y - spine_y.at(at), z)}


class Canvas:
    """A CT (float32 HU) and its labels; later shapes are painted over earlier ones."""

    def __init__(self, grid: Grid, subject: Subject) -> None:
        self.grid = grid
        self.frames = anatomical(grid, subject)
        self.ct: Field = np.full(grid.shape, -1000, np.float32)
        self.labels: NDArray[np.uint8] = np.zeros(grid.shape, np.uint8)
        # Partial volume: tissues are mixed over the width of one voxel at a surface.
        self._edge = np.float32(np.mean(grid.spacing) / subject.scale)
        step = tuple(slice(None, None, _COARSE) for _ in range(3))
        self._coarse = {name: tuple(c[step] for c in field) for name, field in self.frames.items()}
        self._reach = _COARSE * max(grid.spacing) / subject.scale

    def box(self, solid: Solid, frame: Frame, side: int) -> tuple[slice, slice, slice] | None:
        """Return the index box that contains the shape, or None if the shape is outside the grid."""
        inside = np.ones(self._coarse[frame][0].shape, bool)
        for axis, field in enumerate(self._coarse[frame]):
            low, high = solid.low[axis], solid.high[axis]
            if axis == 0 and side < 0:
                low, high = -high, -low
            inside &= (field > low - self._reach) & (field < high + self._reach)
        if not inside.any():
            return None
        cuts = []
        for axis in range(3):
            hits = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
            start = max(0, int(hits[0]) * _COARSE - _COARSE)
            cuts.append(slice(start, min(self.grid.shape[axis], (int(hits[-1]) + 2) * _COARSE)))
        return cuts[0], cuts[1], cuts[2]

    def distance(
        self, solid: Solid, frame: Frame, side: int = 0
    ) -> tuple[tuple[slice, slice, slice], Field] | None:
        """Return the index box of a shape and its distance there; `side` -1 mirrors it to the left."""
        box = self.box(solid, frame, side)
        if box is None:
            return None
        x, y, z = (field[box] for field in self.frames[frame])
        return box, solid.distance(-x if side < 0 else x, y, z)

    def paint(
        self,
        solid: Solid,
        hu: float | None,
        *,
        frame: Frame = "head",
        side: int = 0,
        label: int = 0,
        strength: float = 1.0,
    ) -> None:
        """Paint a shape with `hu` (None keeps the CT) and `label` (0 keeps the labels)."""
        found = self.distance(solid, frame, side)
        if found is None:
            return
        box, d = found
        if hu is not None:
            self.ct[box] += self.cover(d) * np.float32(strength) * (np.float32(hu) - self.ct[box])
        if label:
            self.labels[box][d < 0] = label

    def pair(self, solid: Solid, hu: float, *, frame: Frame = "head", strength: float = 1.0) -> None:
        """Paint a shape of the right side on both sides."""
        for side in (1, -1):
            self.paint(solid, hu, frame=frame, side=side, strength=strength)

    def cover(self, distance: Field) -> Field:
        """Return the fraction of each voxel that is inside a surface with the given distance."""
        return np.asarray(np.clip(np.float32(0.5) - distance / self._edge, 0, 1), np.float32)
