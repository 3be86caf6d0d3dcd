"""Draw one picture per case: three planes with the structures as an overlay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from gcis_runtime.images.volume import Volume
from gcis_runtime.pipeline.result import Segmentation, Structure
from gcis_runtime.system.atomic_files import replacing

Color = tuple[int, int, int]

NOTICE = "research software, not a medical device"
_SOFT_TISSUE = (-160.0, 240.0)
_AIR = -500
_ALPHA = 0.45
_PANEL = 360
_MARGIN = 12
_LINE = 18
_PLANES = (("sagittal", 0), ("coronal", 1), ("axial", 2))


def write_preview(path: Path, segmentation: Segmentation) -> None:
    """Write an overlay of three planes through the structures' centroid as PNG, atomically.

    Radiological view: the patient's right is on the left of the picture, anterior is up (axial), superior is
    up (coronal, sagittal). Soft-tissue window, voxels in their true proportions.

    Raises:
        OutputError: The file cannot be written.
    """
    picture = draw_preview(segmentation)
    with replacing(path) as temporary, temporary.open("wb") as file:
        picture.save(file, format="PNG")


def draw_preview(segmentation: Segmentation) -> Image.Image:
    """Draw the overlay; see `write_preview`."""
    return draw_overlay(segmentation.volume, segmentation.labels, segmentation.structures)


def draw_overlay(volume: Volume, labels: NDArray[Any], structures: Sequence[Structure]) -> Image.Image:
    """Draw a volume with a label map of its grid; see `write_preview`.

    Args:
        volume: The image.
        labels: Label values, (X, Y, Z).
        structures: Structures to draw and to list in the legend.
    """
    return draw_planes(
        volume,
        [("", labels)],
        colors={s.value: s.color for s in structures},
        legend=[(s.color, f"{s.name}  {s.volume_ml:.1f} mL") for s in structures],
    )


def draw_planes(
    volume: Volume,
    maps: Sequence[tuple[str, NDArray[Any]]],
    *,
    colors: Mapping[int, Color],
    legend: Sequence[tuple[Color, str]],
    centre_on: NDArray[np.bool_] | None = None,
) -> Image.Image:
    """Draw label maps of one volume over the same three planes, a row of panels each; see `write_preview`.

    Args:
        volume: The image.
        maps: Title and label map (X, Y, Z) of each row; all values below 65536.
        colors: Colour of each label value; others stay black.
        legend: Colour and text of each entry.
        centre_on: Mask (X, Y, Z) through whose centroid the planes go; None takes the first map's labels.
    """
    change = nib.io_orientation(volume.affine)
    image = _to_ras(volume.array, change)
    rows = [(title, _to_ras(labels, change)) for title, labels in maps]
    spacing = np.array(volume.spacing)[np.argsort(change[:, 0])]
    aim = rows[0][1] if centre_on is None else _to_ras(centre_on, change)
    box = _body_box(image, [labels for _, labels in rows])
    centre = _centre(aim[box])
    lookup = _lookup(colors, largest=max(int(labels.max()) for _, labels in rows))
    height = _PANEL + 2 * _MARGIN + _LINE
    lines = (len(legend) + 2) // 3 + 1
    size = (3 * _PANEL + 4 * _MARGIN, len(rows) * height + _MARGIN + _LINE * lines)
    sheet = Image.new("RGB", size, (0, 0, 0))
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()
    for row, (title, labels) in enumerate(rows):
        top = _MARGIN + row * height
        for column, (name, axis) in enumerate(_PLANES):
            panel = _panel(image[box], labels[box], lookup, spacing, axis=axis, index=int(centre[axis]))
            left = _MARGIN + column * (_PANEL + _MARGIN)
            text = f"{title}, {name}" if title else name
            draw.text((left, top), text, fill=(220, 220, 220), font=font)
            corner = (left + (_PANEL - panel.width) // 2, top + _LINE + (_PANEL - panel.height) // 2)
            sheet.paste(panel, corner)
            sides = (("R", 0), ("L", _PANEL - 10)) if axis != 0 else (("A", 0), ("P", _PANEL - 10))
            for side, place in sides:
                draw.text((left + place, top + _LINE + _PANEL // 2), side, fill=(220, 220, 220), font=font)
    _legend(draw, legend, font, top=len(rows) * height)
    draw.text((_MARGIN, size[1] - _LINE), NOTICE, fill=(255, 200, 80), font=font)
    return sheet


def _lookup(colors: Mapping[int, Color], *, largest: int) -> NDArray[np.float32]:
    """Return the colour of each label value up to `largest`."""
    lookup = np.zeros((largest + 1, 3), dtype=np.float32)
    for value, color in colors.items():
        if value <= largest:
            lookup[value] = color
    return lookup


def _to_ras(array: NDArray[Any], change: NDArray[Any]) -> NDArray[Any]:
    """Flip and permute to the axes right, anterior, superior (a view)."""
    out: NDArray[Any] = nib.orientations.apply_orientation(array, change)
    return out


def _body_box(image: NDArray[Any], maps: Sequence[NDArray[Any]]) -> tuple[slice, ...]:
    """Return the box of the voxels that are denser than air or labelled, to leave out the air around."""
    inside = image > _AIR
    for labels in maps:
        inside |= labels > 0
    if not inside.any():
        return (slice(None),) * 3
    box = []
    for axis in range(3):
        found = np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis)))
        box.append(slice(max(0, int(found[0]) - 2), int(found[-1]) + 3))
    return tuple(box)


def _centre(labels: NDArray[Any]) -> NDArray[np.intp]:
    """Return the voxel nearest to the structures' centroid, or the middle of an empty map."""
    inside = labels > 0
    if not inside.any():
        return np.array(labels.shape) // 2
    centre = []
    for axis in range(3):
        counts = inside.sum(axis=tuple(a for a in range(3) if a != axis))
        centre.append(round(float(np.average(np.arange(len(counts)), weights=counts))))
    return np.array(centre)


def _panel(
    image: NDArray[Any],
    labels: NDArray[Any],
    lookup: NDArray[np.float32],
    spacing: NDArray[np.float64],
    *,
    axis: int,
    index: int,
) -> Image.Image:
    """Draw one plane, scaled to fit a panel with true proportions."""
    low, high = _SOFT_TISSUE
    across, up = (a for a in range(3) if a != axis)
    grey = np.clip((image.take(index, axis).astype(np.float32) - low) / (high - low), 0, 1) * 255
    plane = labels.take(index, axis)
    # A picture's rows run downwards and its left is the patient's right or anterior: both axes are reversed.
    grey, plane = grey.T[::-1, ::-1], plane.T[::-1, ::-1]
    extent = (plane.shape[1] * spacing[across], plane.shape[0] * spacing[up])
    scale = _PANEL / max(extent)
    size = max(1, round(float(extent[0] * scale))), max(1, round(float(extent[1] * scale)))
    # The image is smoothed; labels are not, so that their voxels can be judged.
    smooth = Image.fromarray(grey.astype(np.uint8)).resize(size, Image.Resampling.BICUBIC)
    rgb = np.repeat(np.asarray(smooth, dtype=np.float32)[..., None], 3, axis=2)
    rows = np.minimum((np.arange(size[1]) + 0.5) * plane.shape[0] / size[1], plane.shape[0] - 1).astype(
        np.intp
    )
    columns = np.minimum((np.arange(size[0]) + 0.5) * plane.shape[1] / size[0], plane.shape[1] - 1).astype(
        np.intp
    )
    large = plane[np.ix_(rows, columns)]
    inside = large > 0
    rgb[inside] = (1 - _ALPHA) * rgb[inside] + _ALPHA * lookup[large[inside]]
    return Image.fromarray(rgb.astype(np.uint8))


def _legend(
    draw: ImageDraw.ImageDraw,
    entries: Sequence[tuple[Color, str]],
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
    *,
    top: int,
) -> None:
    """Write each entry's colour and text, three per row."""
    for i, (color, text) in enumerate(entries):
        x, y = _MARGIN + (i % 3) * (_PANEL + _MARGIN), top + (i // 3) * _LINE
        draw.rectangle((x, y + 2, x + 11, y + 13), fill=color)
        draw.text((x + 18, y), text, fill=(220, 220, 220), font=font)
