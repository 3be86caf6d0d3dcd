"""Read the image of a case: a file, or a DICOM series."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gcis_runtime.dicom.series import Series
from gcis_runtime.errors import ImageError
from gcis_runtime.images.files import check_plausible, read_volume
from gcis_runtime.images.volume import Volume
from gcis_runtime.pipeline.memory_limit import check_image
from gcis_runtime.runs.options import RunOptions
from gcis_runtime.runs.outputs import Job

if TYPE_CHECKING:
    from gcis_runtime.dicom.load import SeriesImage


def check_input(job: Job, options: RunOptions) -> None:
    """Check before reading that the image is plausible and that its voxels fit into the allowed memory.

    Raises:
        ImageError: The file is not plausible or cannot be read.
        MemoryLimitError: The voxels alone need more memory than `options` permit.
    """
    if job.series is None:
        check_plausible(job.image)
    size = None if job.series is None else job.series.voxel_bytes
    check_image(job.image, options.segment.max_memory, size=size)


def read_input(job: Job, options: RunOptions) -> tuple[Volume, SeriesImage | None]:
    """Read the image; the second value is the DICOM series, None for a file.

    Raises:
        ImageError: It cannot be read.
    """
    if job.series is None:
        return read_volume(job.image), None
    found = _read_series(job.series, job, options)
    return found.volume, found


def _read_series(series: Series, job: Job, options: RunOptions) -> SeriesImage:
    from gcis_runtime.dicom.load import read_series  # noqa: PLC0415 (imports pydicom)

    try:
        return read_series(series, allow_irregular=options.dicom.allow_irregular)
    except ImageError as error:
        raise error.named(job.image) from error
