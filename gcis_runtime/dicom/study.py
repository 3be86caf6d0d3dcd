"""Find the series of a study, and read one as a `Volume`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from gcis_runtime.dicom.files import list_files
from gcis_runtime.dicom.load import read_series
from gcis_runtime.dicom.options import DicomOptions
from gcis_runtime.dicom.series import Series, choose_series, read_study
from gcis_runtime.errors import ImageError
from gcis_runtime.images.volume import Volume


def find_series(
    paths: Sequence[Path], options: DicomOptions, *, keep_headers: bool = False
) -> tuple[Series, ...]:
    """Return the chosen CT series of a study.

    Args:
        paths: Folders, files and zip archives that make up the study.
        options: The choice.
        keep_headers: See `read_study`.

    Raises:
        ImageError: There is no CT series, or the choice is not unique; the message begins with the path.
    """
    try:
        return choose_series(
            read_study(list_files(paths), keep_headers=keep_headers), options.series, every=options.every
        )
    except ImageError as error:
        raise error.named(paths[0]) from error


def read_dicom(
    path: str | os.PathLike[str], *, series: str | None = None, allow_irregular: bool = False
) -> Volume:
    """Read a CT series as a volume in HU.

    Args:
        path: Folder, zip archive or file of the study.
        series: SeriesNumber or SeriesInstanceUID; None takes the only CT series.
        allow_irregular: Interpolate missing or unevenly spaced slices to a regular grid.

    Raises:
        ImageError: pydicom is missing, the choice is not unique, or the series cannot be read.
    """
    options = DicomOptions(series=() if series is None else (str(series),), allow_irregular=allow_irregular)
    (found,) = find_series([Path(path)], options, keep_headers=True)
    return read_series(found, allow_irregular=allow_irregular).volume
