"""List the images of a dataset's folder and find them by patterns of their paths."""

from __future__ import annotations

import functools
import os
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from gcis_runtime.errors import DataError
from gcis_runtime.images.suffixes import READABLE

SUFFIX = r"(?i:\.(?:nii\.gz|nii|nrrd|mha|mhd))$"
"""End of a pattern for an image in any readable format, so that converted files are accepted too."""


class Listing:
    """The images below a folder, except hidden files (archives from macOS contain `._` files).

    Args:
        root: The dataset's folder.

    Raises:
        DataError: `root` is not a folder.
    """

    def __init__(self, root: Path) -> None:
        if not root.is_dir():
            raise DataError(
                f"{root} is not a folder",
                received="a file" if root.exists() else "a path that does not exist",
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
            # Datasets often consist of links; following one to a parent folder would not terminate.
            inner[:] = [n for n in inner if not n.startswith(".") and self._real(folder, n) not in seen]
            place = Path(folder).relative_to(self.root)
            found += [(place / n).as_posix() for n in files if n.lower().endswith(READABLE) and n[0] != "."]
        return tuple(sorted(found))

    @staticmethod
    def _real(folder: str, name: str) -> str:
        return os.path.realpath(os.path.join(folder, name))  # noqa: PTH118 (hundreds of thousands of names)

    def find(self, pattern: str) -> dict[str, Path]:
        """Return the images whose path matches, by the group `key` of the pattern, sorted by key.

        A match may begin at any folder or file name of the path.

        Raises:
            DataError: Two files have the same key.
        """
        found: dict[str, Path] = {}
        for name in self.names:
            match = re.search(rf"(?:^|/){pattern}", name)
            if match is None:
                continue
            key = match["key"]
            if key in found:
                raise DataError(
                    f"{self.root} has two files for case {key}",
                    received=f"{found[key].relative_to(self.root)} and {name}",
                    fix="Pass the folder of one copy.",
                )
            found[key] = self.root / name
        return dict(sorted(found.items()))

    def unused(self, used: set[Path], aside: tuple[str, ...]) -> tuple[str, ...]:
        """Return the images that no sample uses and that match no pattern of `aside`."""
        return tuple(
            name
            for name in self.names
            if self.root / name not in used and not any(re.search(rf"(?:^|/){a}", name) for a in aside)
        )

    def set_aside(self, used: set[Path], aside: tuple[str, ...]) -> dict[str, int]:
        """Return the number of unused images per folder that match a pattern of `aside`."""
        known = set(self.unused(used, aside))
        names = [name for name in self.names if self.root / name not in used and name not in known]
        return grouped(names)

    def contents(self) -> str:
        """Return a short description of the folder's contents, for an error."""
        names = sorted(p.name + ("/" if p.is_dir() else "") for p in self.root.iterdir())
        return (", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")) or "nothing"

    def has_dicom(self) -> bool:
        """Return whether the folder contains a DICOM file."""
        return next(self.root.rglob("*.dcm"), None) is not None


def grouped(names: Sequence[str]) -> dict[str, int]:
    """Return the number of files per folder, or per file name where that gives fewer groups.

    A hundred files of a folder `imagesTs` are one group, as is the same file in each of a hundred folders.
    """
    folders = Counter(f"{folder}/" if (folder := name.rpartition("/")[0]) else "./" for name in names)
    files = Counter(name.rpartition("/")[2] for name in names)
    return dict(files if len(files) < len(folders) else folders)
