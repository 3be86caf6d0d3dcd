"""Compare the headers of label files with those of their images where the image places the labels."""

from __future__ import annotations

from collections.abc import Sequence

from gcis_runtime.images.files import read_grid
from gcis_runtime.images.grid import TOLERANCE
from gcis_train.data.placement import Placement
from gcis_train.datasets.samples import Sample, Skip


def placed(
    samples: Sequence[Sample], placement: Placement
) -> tuple[list[Sample], list[Skip], list[dict[str, str | float]]]:
    """Compare the headers of the samples of a dataset; with the label geometry `file`, read none.

    Args:
        samples: The samples.
        placement: How the labels of the dataset are placed.

    Returns:
        The samples whose labels have the shape of their image, the others with the reason, and name and
        largest distance in mm of the samples whose headers differ.

    Raises:
        ImageError: A header cannot be read.
    """
    if placement.geometry == "file":
        return list(samples), [], []
    kept: list[Sample] = []
    skipped: list[Skip] = []
    moved: list[dict[str, str | float]] = []
    for sample in samples:
        image = read_grid(sample.image)
        shapes = {file: read_grid(file).shape for mask in sample.masks for file in mask.files}
        if wrong := next((file for file, shape in shapes.items() if shape != image.shape), None):
            reason = f"{wrong.name} has the shape {shapes[wrong]}, its image {image.shape}"
            skipped.append(Skip(name=sample.name, reason=reason))
            continue
        kept.append(sample)
        most = max(placement.check(file, image) for file in shapes)
        if most > TOLERANCE * min(image.spacing):
            moved.append({"name": sample.name, "mm": round(most, 3)})
    return kept, skipped, moved
