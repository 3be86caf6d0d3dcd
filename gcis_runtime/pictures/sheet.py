"""Draw a sheet: three planes through the structures, a row per label map, and a legend."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from gcis_runtime.images.volume import Volume
from gcis_runtime.pictures.planes import Color, Style, color_lookup, draw_plane
from gcis_runtime.pictures.view import PLANES, SIDES, PatientView, body_box, centre_of

NOTICE = "research software, not a medical device"
PANEL = 360
_MARGIN = 12
_LINE = 18


def draw_planes(
    volume: Volume,
    maps: Sequence[tuple[str, NDArray[Any]]],
    *,
    colors: Mapping[int, Color],
    legend: Sequence[tuple[Color, str]],
    centre_on: NDArray[np.bool_] | None = None,
) -> Image.Image:
    """Draw label maps of one volume over the same three planes, a row of panels each.

    Radiological view: the patient's right is on the left of the picture, anterior is up (axial), superior is
    up (coronal, sagittal). Soft-tissue window, voxels in their true proportions.

    Args:
        volume: The image.
        maps: Title and label map (X, Y, Z) of each row; all values below 65536.
        colors: Colour of each label value; others stay black.
        legend: Colour and text of each entry.
        centre_on: Mask (X, Y, Z) through whose centroid the planes go; None takes the first map's labels.
    """
    views = [(title, PatientView.of(volume, labels)) for title, labels in maps]
    first = views[0][1]
    aim = first.labels if centre_on is None else PatientView.of(volume, centre_on).labels
    box = body_box(first.image, [view.labels for _, view in views])
    centre = centre_of(aim[box])
    lookup = color_lookup(colors, largest=max(int(view.labels.max()) for _, view in views))
    height = PANEL + 2 * _MARGIN + _LINE
    lines = (len(legend) + 2) // 3 + 1
    size = (3 * PANEL + 4 * _MARGIN, len(views) * height + _MARGIN + _LINE * lines)
    sheet = Image.new("RGB", size, (0, 0, 0))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for row, (title, view) in enumerate(views):
        top = _MARGIN + row * height
        for column, (name, axis) in enumerate(PLANES):
            index = (box[axis].start or 0) + int(centre[axis])
            panel = draw_plane(view, box, lookup, axis=axis, index=index, longest=PANEL, style=Style())
            left = _MARGIN + column * (PANEL + _MARGIN)
            text = f"{title}, {name}" if title else name
            draw.text((left, top), text, fill=(220, 220, 220), font=font)
            corner = (left + (PANEL - panel.width) // 2, top + _LINE + (PANEL - panel.height) // 2)
            sheet.paste(panel, corner)
            for side, place in zip(SIDES[axis], (0, PANEL - 10), strict=True):
                draw.text((left + place, top + _LINE + PANEL // 2), side, fill=(220, 220, 220), font=font)
    _legend(draw, legend, font, top=len(views) * height)
    draw.text((_MARGIN, size[1] - _LINE), NOTICE, fill=(255, 200, 80), font=font)
    return sheet


def _legend(
    draw: ImageDraw.ImageDraw,
    entries: Sequence[tuple[Color, str]],
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    *,
    top: int,
) -> None:
    """Write each entry's colour and text, three per row."""
    for i, (color, text) in enumerate(entries):
        x, y = _MARGIN + (i % 3) * (PANEL + _MARGIN), top + (i // 3) * _LINE
        draw.rectangle((x, y + 2, x + 11, y + 13), fill=color)
        draw.text((x + 18, y), text, fill=(220, 220, 220), font=font)
