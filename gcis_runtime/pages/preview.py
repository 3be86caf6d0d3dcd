"""Draw one picture per case: three planes with the structures as an overlay."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from PIL import Image

from gcis_runtime.images.volume import Volume
from gcis_runtime.pictures.sheet import draw_planes
from gcis_runtime.pipeline.result import Segmentation, Structure
from gcis_runtime.system.atomic_files import replacing


def write_preview(path: Path, segmentation: Segmentation) -> None:
    """Write an overlay of three planes through the structures' centroid as PNG, atomically.

    Raises:
        OutputError: The file cannot be written.
    """
    picture = draw_preview(segmentation)
    with replacing(path) as temporary, temporary.open("wb") as file:
        picture.save(file, format="PNG")


def draw_preview(segmentation: Segmentation) -> Image.Image:
    """Draw the overlay; see `pictures.sheet.draw_planes` for the view."""
    return draw_overlay(segmentation.volume, segmentation.labels, segmentation.structures)


def draw_overlay(volume: Volume, labels: NDArray[Any], structures: Sequence[Structure]) -> Image.Image:
    """Draw a volume with a label map of its grid; see `draw_preview`.

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
