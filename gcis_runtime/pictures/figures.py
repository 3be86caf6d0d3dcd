"""Draw the figures of a page: an overview, planes through one structure, a strip of slices, a thumbnail."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from gcis_runtime.pictures.planes import Style, draw_plane
from gcis_runtime.pictures.view import PLANES, SIDES, Extent, PatientView

_GAP = 6
_MARGIN_MM, _LEAST_MM = 25.0, 100.0
"""Surroundings that are shown on each side of a structure, and the smallest width of a field of view."""
_TEXT = (235, 235, 235)


@dataclass(frozen=True, kw_only=True, eq=False)
class Canvas:
    """What all figures of a case share.

    Attributes:
        view: The volume with its label map.
        lookup: Colour of each label value, (N, 3).
        box: The part of the volume that is shown, without the air around the body.
    """

    view: PatientView
    lookup: NDArray[np.float32]
    box: tuple[slice, slice, slice]


def draw_overview(canvas: Canvas, centre: Sequence[int], *, panel: int) -> Image.Image:
    """Draw three planes through a voxel, with all structures, at one scale.

    Args:
        canvas: What to draw.
        centre: Index along each axis.
        panel: Width of a panel in pixels.
    """
    field = _Field.of(canvas.view, canvas.box)
    return _three_planes(canvas, field, centre, Style(fill=0.35, line=2), panel=panel)


def draw_structure(canvas: Canvas, value: int, extent: Extent, *, panel: int) -> Image.Image:
    """Draw three planes through the largest cross-sections of a structure, which fills most of them.

    The structure is filled and outlined, and others are outlined. All planes have the same scale.

    Args:
        canvas: What to draw.
        value: Label value of the structure.
        extent: Where it is.
        panel: Width of a panel in pixels.
    """
    spacing = canvas.view.spacing
    sizes = [(h - lo + 1) * s for lo, h, s in zip(extent.low, extent.high, spacing, strict=True)]
    middle = [(lo + h + 1) / 2 for lo, h in zip(extent.low, extent.high, strict=True)]
    field = _Field(middle=tuple(middle), side=max(_LEAST_MM, max(sizes) + 2 * _MARGIN_MM))
    style = Style(fill=0.3, line=2, focus=value)
    return _three_planes(canvas, field, extent.largest, style, panel=panel)


def strip_slices(canvas: Canvas, extents: Sequence[Extent], *, count: int) -> list[int]:
    """Return evenly spaced axial slices from the lowest to the highest voxel of all structures.

    Without structures, the slices cover the whole body.
    """
    low = min((e.low[2] for e in extents), default=canvas.box[2].indices(canvas.view.image.shape[2])[0])
    high = max((e.high[2] for e in extents), default=canvas.box[2].indices(canvas.view.image.shape[2])[1] - 1)
    return sorted({round(float(k)) for k in np.linspace(low, high, count)}, reverse=True)


def draw_strip(canvas: Canvas, slices: Sequence[int], *, columns: int, panel: int) -> Image.Image:
    """Draw axial slices in rows, each with its position; the highest slice comes first.

    Args:
        canvas: What to draw.
        slices: Indices of the slices.
        columns: Number of slices per row.
        panel: Width of a slice in pixels.
    """
    style = Style(fill=0.35, line=1)
    drawn = [
        draw_plane(canvas.view, canvas.box, canvas.lookup, axis=2, index=k, longest=panel, style=style)
        for k in slices
    ]
    width, height = max(p.width for p in drawn), max(p.height for p in drawn)
    cells = []
    for k, plane in zip(slices, drawn, strict=True):
        cell = _framed(plane, (width, height), None)
        ImageDraw.Draw(cell).text(
            (5, 3), f"z {canvas.view.position_mm(2, k):.0f} mm", fill=_TEXT, font=_font(12), **_HALO
        )
        cells.append(cell)
    rows = [_row(cells[i : i + columns]) for i in range(0, len(cells), columns)]
    size = (max(row.width for row in rows), sum(row.height + _GAP for row in rows) - _GAP)
    sheet = Image.new("RGB", size, (0, 0, 0))
    for i, row in enumerate(rows):
        sheet.paste(row, (0, i * (row.height + _GAP)))
    return sheet


def draw_thumbnail(canvas: Canvas, centre: Sequence[int], *, size: int) -> Image.Image:
    """Draw the coronal plane through a voxel in a square of `size` pixels."""
    style = Style(fill=0.5, line=1)
    plane = draw_plane(
        canvas.view, canvas.box, canvas.lookup, axis=1, index=int(centre[1]), longest=size, style=style
    )
    return _framed(plane, (size, size), None)


_HALO: dict[str, Any] = {"stroke_width": 1, "stroke_fill": (0, 0, 0)}


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)


@dataclass(frozen=True, kw_only=True)
class _Field:
    """A cube that is shown.

    Attributes:
        middle: Its middle in voxels, counted from the outer border of the first.
        side: Its side in mm.
    """

    middle: tuple[float, ...]
    side: float

    @classmethod
    def of(cls, view: PatientView, box: tuple[slice, slice, slice]) -> _Field:
        """Return the smallest cube around a box."""
        bounds = [part.indices(n)[:2] for part, n in zip(box, view.image.shape, strict=True)]
        return cls(
            middle=tuple((a + b) / 2 for a, b in bounds),
            side=max((b - a) * float(s) for (a, b), s in zip(bounds, view.spacing, strict=True)),
        )

    def box(self, view: PatientView) -> tuple[slice, slice, slice]:
        """Return all voxels that the cube touches."""
        parts = []
        for middle, spacing, length in zip(self.middle, view.spacing, view.image.shape, strict=True):
            half = self.side / float(spacing) / 2
            parts.append(slice(max(0, int(middle - half)), min(length, int(np.ceil(middle + half)))))
        return parts[0], parts[1], parts[2]


def _three_planes(
    canvas: Canvas, field: _Field, indices: Sequence[int], style: Style, *, panel: int
) -> Image.Image:
    """Draw the planes at three indices within a field, side by side."""
    view, box = canvas.view, field.box(canvas.view)
    scale = panel / field.side
    panels = []
    for _, axis in PLANES:
        across, up = (a for a in range(3) if a != axis)
        shown = max((box[a].stop - box[a].start) * float(view.spacing[a]) for a in (across, up))
        longest = max(1, round(shown * scale))
        picture = draw_plane(
            canvas.view, box, canvas.lookup, axis=axis, index=int(indices[axis]), longest=longest, style=style
        )
        # The picture begins at the highest voxel of both axes.
        left, top = (
            round(panel / 2 - (box[a].stop - field.middle[a]) * float(view.spacing[a]) * scale)
            for a in (across, up)
        )
        panels.append(_framed(picture, (panel, panel), axis, corner=(left, top)))
    return _row(panels)


def _framed(
    picture: Image.Image, size: tuple[int, int], axis: int | None, *, corner: tuple[int, int] | None = None
) -> Image.Image:
    """Place a picture on black, with the letters of the sides of a plane; without `corner`, centre it."""
    frame = Image.new("RGB", size, (0, 0, 0))
    frame.paste(picture, corner or ((size[0] - picture.width) // 2, (size[1] - picture.height) // 2))
    if axis is not None:
        draw, font = ImageDraw.Draw(frame), _font(max(10, size[0] // 22))
        left, right = SIDES[axis]
        middle = size[1] // 2
        draw.text((5, middle), left, fill=_TEXT, font=font, anchor="lm", **_HALO)
        draw.text((size[0] - 5, middle), right, fill=_TEXT, font=font, anchor="rm", **_HALO)
    return frame


def _row(panels: Sequence[Image.Image]) -> Image.Image:
    """Place pictures of one height side by side."""
    size = (sum(p.width + _GAP for p in panels) - _GAP, max(p.height for p in panels))
    row = Image.new("RGB", size, (0, 0, 0))
    left = 0
    for panel in panels:
        row.paste(panel, (left, 0))
        left += panel.width + _GAP
    return row
