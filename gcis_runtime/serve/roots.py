"""Allow paths below the folders that the operator names, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from itertools import islice
from pathlib import Path

from gcis_runtime.dicom.files import MAX_FILES
from gcis_runtime.images.dicom_content import files_below
from gcis_runtime.images.other_file import other_file
from gcis_runtime.serve.problems import ServeError


def below_roots(path: str, roots: Sequence[Path]) -> Path:
    """Return the real path of an image; a relative path is looked up in every root.

    The answer is the same for a path outside the roots and for one that does not exist.

    Raises:
        ServeError: No root is allowed, or the path is not below one, also after following links, or a file
            that would be read with it is not.
    """
    if not roots:
        raise ServeError(
            "the service reads no paths", status=403, expected="an image in the body",
            fix="Send the image, or let the operator start gcis-serve with --root FOLDER.",
        )  # fmt: skip
    for root in roots:
        base = Path(os.path.realpath(root))
        try:
            found = Path(os.path.realpath(base / path))
            if found.is_relative_to(base) and found != base and found.exists() and _all_below(base, found):
                return found
        except (OSError, ValueError):  # a name that the system does not accept, or no permission
            continue
    raise ServeError(
        "the path is not an image below an allowed folder",
        status=404,
        expected="a path below a --root of the service",
        fix="Use a path as the service sees it, or send the image.",
    )


def _all_below(base: Path, image: Path) -> bool:
    """Return whether every file that would be read for an image lies below a folder after following links."""
    if image.is_dir():
        files: Iterable[Path] = islice(files_below(image), MAX_FILES)
    else:
        files = filter(None, [other_file(image)])
    return all(Path(os.path.realpath(file)).is_relative_to(base) for file in files)
