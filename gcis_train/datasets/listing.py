"""The files of a dataset's folder, found by what their paths look like."""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path

from gcis_runtime.errors import DataError
from gcis_runtime.images.suffixes import READABLE

SUFFIX = r"\.(?:nii\.gz|nii|nrrd|mha)$"
"""End of a pattern for an image: the converted form of a file serves as well as the published one."""


class Listing:
    """Images below a folder, hidden files apart (archives made on a Mac carry `._` twins).

    Args:
        root: The dataset's folder.

    Raises:
        DataError: `root` is not a folder.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise DataError(
                f"{root} is not a folder",
                received="a file" if root.exists() else "nothing of that name",
                expected="the dataset's folder",
            )
        self.root = root

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """Paths of all images relative to the folder, `/` between folders, sorted."""
        found = []
        seen = set()
        for folder, inner, files in os.walk(self.root, followlinks=True):
            seen.add(os.path.realpath(folder))
            # Datasets are often gathered from links; a link to a folder above it would never end.
            inner[:] = [n for n in inner if not n.startswith(".") and self._real(folder, n) not in seen]
            place = Path(folder).relative_to(self.root)
            found += [(place / n).as_posix() for n in files if n.endswith(READABLE) and n[0] != "."]
        return tuple(sorted(found))

    @staticmethod
    def _real(folder: str, name: str) -> str:
        return os.path.realpath(os.path.join(folder, name))  # noqa: PTH118 (hundreds of thousands of names)

    def find(self, pattern: str) -> dict[str, Path]:
        """Return the images whose path matches, by the pattern's group `key`, in order of the key.

        A pattern is looked for from the start of any folder or file name of the path.

        Raises:
            DataError: Two files for one key.
        """
        found: dict[str, Path] = {}
        for name in self.names:
            match = re.search(rf"(?:^|/){pattern}", name)
            if match is None:
                continue
            key = match["key"]
            if key in found:
                raise DataError(
                    f"{self.root} holds two files for case {key}",
                    received=f"{found[key].relative_to(self.root)} and {name}",
                    fix="Give the folder of one copy.",
                )
            found[key] = self.root / name
        return dict(sorted(found.items()))

    def unused(self, used: set[Path], aside: tuple[str, ...]) -> tuple[str, ...]:
        """Return the images that no sample uses and no pattern of `aside` explains."""
        return tuple(
            name
            for name in self.names
            if self.root / name not in used and not any(re.search(rf"(?:^|/){a}", name) for a in aside)
        )

    def contents(self) -> str:
        """Say in a few words what the folder holds, for an error."""
        names = sorted(p.name + ("/" if p.is_dir() else "") for p in self.root.iterdir())
        return (", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")) or "nothing"

    def has_dicom(self) -> bool:
        """Tell whether a DICOM file lies below the folder."""
        return next(self.root.rglob("*.dcm"), None) is not None
