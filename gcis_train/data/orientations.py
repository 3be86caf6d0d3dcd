"""Compare the orientations of images: a network that keeps the axes of the files needs equal ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from gcis_runtime.errors import DataError, ImageError
from gcis_runtime.images.files import read_grid
from gcis_train.data.datalist import Case


def describe_mixture(orientations: Iterable[tuple[str, str]]) -> str | None:
    """Return a description of several orientations with an example of each; None if there is only one.

    Args:
        orientations: Axis codes and file name of each image.
    """
    examples: dict[str, list[str]] = {}
    for code, name in orientations:
        examples.setdefault(code, []).append(name)
    if len(examples) < 2:
        return None
    common = sorted(examples.items(), key=lambda item: -len(item[1]))
    return ", ".join(f"{code} in {len(names)} (such as {names[0]})" for code, names in common)


def check_orientations(
    cases: Iterable[Case], *, published: bool = False, notify: Callable[[str], None] = lambda _: None
) -> None:
    """Check that the images of a training that keeps the axes of the files have one orientation.

    Images that cannot be read are left to the loading of their case, which reports them.

    Args:
        cases: Training and validation cases.
        published: The published recipe is trained, which keeps the axes of every file: a mixture is reported
            instead of refused.
        notify: Called with the report.

    Raises:
        DataError: The orientations differ.
    """
    found = []
    for image in dict.fromkeys(case.image for case in cases):
        try:
            found.append((read_grid(image).orientation, str(image)))
        except ImageError:
            continue
    mixture = describe_mixture(found)
    if mixture is None:
        return
    if published:
        notify(f"warning: mixed orientations, {mixture}: the published recipe keeps the axes of each file")
        return
    raise DataError(
        "the images have different orientations, and the training keeps the axes of the files",
        received=mixture,
        expected="one orientation",
        fix="Set one with --orientation RAS: all images are then reoriented, here and by gcis-run.",
    )
