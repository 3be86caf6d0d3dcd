"""Write DICOM files atomically, and check that the package for it is installed."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from gcis_runtime.errors import OutputError
from gcis_runtime.system.atomic_files import replacing


def check_installed() -> None:
    """Raise an error unless the packages that write DICOM results are installed.

    Raises:
        OutputError: One is missing.
    """
    for name in ("highdicom", "contourpy"):
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise OutputError(
                f"DICOM results need {name}",
                received=str(error),
                fix="pip install 'gcis[dicom]', or write --format nii.gz.",
            ) from error


def save_dicom(path: Path, dataset: Any) -> None:
    """Write a data set, atomically.

    Raises:
        OutputError: The file cannot be written.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        dataset.save_as(file, enforce_file_format=True)
