"""Select the masks of structures from their label files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gcis_runtime.errors import DataError
from gcis_runtime.images.grid import GridLike
from gcis_train.data.datalist import Target
from gcis_train.data.placement import Placement


def read_masks(targets: Sequence[Target], *, like: GridLike) -> Iterator[npt.NDArray[np.bool_]]:
    """Read the mask of each structure, in order; each label file is read once.

    Args:
        targets: Structures of one case.
        like: The image whose grid the label files must have.

    Yields:
        The mask, (X, Y, Z) of `like`: the union over the structure's label files.

    Raises:
        ImageError: A label file cannot be read, is not a label map, or is on a different grid (with the
            label geometry `image`: has a different shape).
        DataError: A structure has no label file.
    """
    return masks_of(targets, lambda path, placement: placement.read(path, like))


def masks_of(
    targets: Sequence[Target], read: Callable[[Path, Placement], npt.NDArray[Any]]
) -> Iterator[npt.NDArray[np.bool_]]:
    """Yield the mask of each structure, in order: the union over its label files.

    Args:
        targets: Structures of one case.
        read: Function from a label file and its placement to its label values, arrays of one shape. It is
            called once per file and placement; the values are kept until the last structure that needs them.

    Raises:
        DataError: A structure has no label file.
    """
    uses = Counter((path, target.placement) for target in targets for path in target.labels)
    values: dict[tuple[Path, Placement], npt.NDArray[Any]] = {}
    for target in targets:
        if not target.labels:
            raise DataError(
                f"the structure {target.prompt!r} has no label file",
                received="an empty list",
                expected="at least one file",
            )
        parts = []
        for path in target.labels:
            place = path, target.placement
            if place not in values:
                values[place] = read(*place)
            parts.append(target.select(values[place]))
            uses[place] -= 1
            if not uses[place]:
                del values[place]
        yield np.logical_or.reduce(parts)
