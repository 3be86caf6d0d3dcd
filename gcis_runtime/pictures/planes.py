"""Draw one plane of a volume: grey values of an intensity window, and structures as areas and outlines.

In a picture, the patient's right or front is on the left, and the front or the head is at the top.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gcis_runtime.pictures.view import PatientView

Color = tuple[int, int, int]
Window = tuple[float, float]
"""HU that are drawn black and white."""

SOFT_TISSUE: Window = (-160.0, 240.0)


def picture_plane(array: NDArray[Any], *, axis: int, index: int) -> NDArray[Any]:
    """Return one plane as rows and columns of a picture.

    Args:
        array: (R, A, S).
        axis: Normal axis of the plane.
        index: Index along it.
    """
    # A picture's rows run downwards and its left is the patient's right or front: both axes are reversed.
    plane: NDArray[Any] = array.take(index, axis).T[::-1, ::-1]
    return plane


def grey_values(plane: NDArray[Any], window: Window) -> NDArray[np.uint8]:
    """Return HU of a plane as grey values, 0 to 255."""
    low, high = window
    grey = np.clip((plane.astype(np.float32) - low) / (high - low), 0, 1) * 255
    values: NDArray[np.uint8] = grey.astype(np.uint8)
    return values


def scaled_size(shape: tuple[int, ...], spacing: tuple[float, float], *, longest: int) -> tuple[int, int]:
    """Return width and height of a picture in true proportions.

    Args:
        shape: Rows and columns of the plane.
        spacing: Distance between rows and between columns in mm.
        longest: Longer side of the picture in pixels.
    """
    extent = (shape[1] * spacing[1], shape[0] * spacing[0])
    scale = longest / max(extent)
    return max(1, round(extent[0] * scale)), max(1, round(extent[1] * scale))


def enlarged_labels(plane: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Return the label of the nearest voxel for each pixel of a picture of width and height `size`."""
    rows, columns = (
        np.minimum((np.arange(n) + 0.5) * voxels / n, voxels - 1).astype(np.intp)
        for n, voxels in ((size[1], plane.shape[0]), (size[0], plane.shape[1]))
    )
    large: NDArray[Any] = plane[np.ix_(rows, columns)]
    return large


def enlarged_grey(grey: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.float32]:
    """Return smoothed grey values for each pixel, (height, width, 3)."""
    smooth = Image.fromarray(np.ascontiguousarray(grey)).resize(size, Image.Resampling.BICUBIC)
    return np.repeat(np.asarray(smooth, dtype=np.float32)[..., None], 3, axis=2)


def outline(labels: NDArray[Any], width: int) -> NDArray[np.bool_]:
    """Return the labelled pixels within `width` pixels of a pixel with another label.

    The border of the picture is not an outline: the structure may continue there.
    """
    edge = np.zeros(labels.shape, dtype=np.bool_)
    for distance in range(1, width + 1):
        for axis in (0, 1):
            ahead = np.swapaxes(labels, 0, axis)[distance:]
            behind = np.swapaxes(labels, 0, axis)[:-distance]
            marks = np.swapaxes(edge, 0, axis)
            marks[:-distance] |= ahead != behind
            marks[distance:] |= ahead != behind
    return edge & (labels > 0)


@dataclass(frozen=True, kw_only=True)
class Style:
    """How structures are drawn.

    Attributes:
        fill: Opacity of the area of a structure, 0 to 1.
        line: Width of the outline in pixels; 0 draws none.
        focus: The only label value whose area is filled; None fills all.
    """

    fill: float = 0.45
    line: int = 0
    focus: int | None = None


def paint(
    rgb: NDArray[np.float32], labels: NDArray[Any], lookup: NDArray[np.float32], style: Style
) -> NDArray[np.uint8]:
    """Return a picture with the structures painted over it.

    Args:
        rgb: (height, width, 3).
        labels: (height, width); all values are below the length of `lookup`.
        lookup: Colour of each label value, (N, 3).
        style: How structures are drawn.
    """
    out = rgb.copy()
    inside = labels > 0 if style.focus is None else labels == style.focus
    out[inside] = (1 - style.fill) * out[inside] + style.fill * lookup[labels[inside]]
    if style.line:
        edge = outline(labels, style.line)
        if style.focus is not None:
            edge &= (labels == style.focus) | outline(labels, 1)
        out[edge] = lookup[labels[edge]]
    return out.astype(np.uint8)


def draw_plane(
    view: PatientView,
    box: tuple[slice, slice, slice],
    lookup: NDArray[np.float32],
    *,
    axis: int,
    index: int,
    longest: int,
    style: Style,
) -> Image.Image:
    """Draw the part of a plane within a box, in true proportions.

    The image is interpolated; labels are not, so that their voxels can be judged.

    Args:
        view: The volume with its label map.
        box: The part along the two axes of the plane.
        lookup: Colour of each label value, (N, 3).
        axis: Normal axis.
        index: Index of the plane in the volume.
        longest: Longer side of the picture in pixels.
        style: How structures are drawn.
    """
    across, up = (a for a in range(3) if a != axis)
    part = tuple(slice(index, index + 1) if a == axis else box[a] for a in range(3))
    grey = grey_values(picture_plane(view.image[part], axis=axis, index=0), SOFT_TISSUE)
    labels = picture_plane(view.labels[part], axis=axis, index=0)
    size = scaled_size(labels.shape, (float(view.spacing[up]), float(view.spacing[across])), longest=longest)
    painted = paint(enlarged_grey(grey, size), enlarged_labels(labels, size), lookup, style)
    return Image.fromarray(painted)


def color_lookup(colors: Mapping[int, Color], *, largest: int) -> NDArray[np.float32]:
    """Return the colour of each label value up to `largest`, (N, 3); values without a colour are black."""
    lookup = np.zeros((largest + 1, 3), dtype=np.float32)
    for value, color in colors.items():
        if value <= largest:
            lookup[value] = color
    return lookup
