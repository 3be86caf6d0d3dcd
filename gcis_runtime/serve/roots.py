"""Allow paths below the folders that the operator names, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from gcis_runtime.images.other_file import other_file
from gcis_runtime.serve.problems import ServeError


def below_roots(path: str, roots: Sequence[Path]) -> Path:
    """Return the real path of an image; a relative path is looked up in every root.

    The answer is the same for a path outside the roots and for one that does not exist.

    Raises:
        ServeError: No root is allowed, or the path is not below one, also after following links, or
            its header names voxels elsewhere.
    """
    if not roots:
        raise ServeError(
            "the service reads no paths", status=403, expected="an image in the body",
            fix="Send the image, or let the operator start gcis-serve with --root FOLDER.",
        )  # fmt: skip
    if "\0" not in path:
        for root in roots:
            base = Path(os.path.realpath(root))
            found = Path(os.path.realpath(base / path))
            if found.is_relative_to(base) and found != base and found.exists():
                other = other_file(found)
                if other is None or Path(os.path.realpath(other)).is_relative_to(base):
                    return found
    raise ServeError(
        "the path is not an image below an allowed folder",
        status=404,
        expected="a path below a --root of the service",
        fix="Use a path as the service sees it, or send the image.",
    )
