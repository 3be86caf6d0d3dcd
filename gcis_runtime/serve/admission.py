"""Check an image by its header, before it becomes a job."""

from __future__ import annotations

from pathlib import Path

from gcis_runtime.errors import GcisError, MemoryLimitError
from gcis_runtime.images.files import check_plausible
from gcis_runtime.images.suffixes import suffix_of
from gcis_runtime.pipeline.memory_limit import check_image
from gcis_runtime.serve.problems import refusal_of
from gcis_runtime.serve.store import private_texts


def check_header(folder: Path, source: str, *, limit: int | None, later: int | None) -> None:
    """Check that the header of an image is valid and its voxels fit into memory.

    DICOM is checked when the job starts.

    Args:
        folder: Folder of the upload.
        source: Path of the image, relative to the folder or absolute.
        limit: Memory limit of the job in bytes; None for that of the machine.
        later: Seconds after which running jobs may have freed memory; None if no job runs.

    Raises:
        ServeError: The header is invalid (status 422), the image is too large (413), or it is too large
            beside the jobs that run now (503).
    """
    path = folder / source
    if path.is_dir() or not suffix_of(path):
        return
    try:
        check_plausible(path)
        check_image(path, limit)
    except MemoryLimitError as error:
        busy = limit is None and later is not None
        raise refusal_of(
            error,
            private=private_texts(folder, source),
            status=503 if busy else 413,
            retry_after=later if busy else None,
        ) from error
    except GcisError as error:
        raise refusal_of(error, private=private_texts(folder, source)) from error
