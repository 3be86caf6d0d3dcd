"""Encode single planes of a volume and its label map as PNG, for viewers that draw them."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from gcis_runtime.pictures.planes import Window, grey_values, picture_plane
from gcis_runtime.pictures.view import PatientView


def image_png(view: PatientView, *, axis: int, index: int, window: Window) -> bytes:
    """Return a plane of the image as grey values of an intensity window, one pixel per voxel."""
    return _png(grey_values(picture_plane(view.image, axis=axis, index=index), window))


def labels_png(view: PatientView, *, axis: int, index: int) -> bytes:
    """Return a plane of the label map, one pixel per voxel: value = red + 256 * green."""
    plane = picture_plane(view.labels, axis=axis, index=index).astype(np.uint16)
    pixels = np.zeros((*plane.shape, 3), dtype=np.uint8)
    pixels[..., 0], pixels[..., 1] = plane & 255, plane >> 8
    return _png(pixels)


def _png(pixels: NDArray[Any]) -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(data, format="PNG", compress_level=1)
    return data.getvalue()
