"""Segment the content of an image file, and return the content of a label file."""

from __future__ import annotations

import tempfile
from pathlib import Path

import msgspec

from gcis_runtime.errors import GcisError, ImageError
from gcis_runtime.images.contents import HEAD, suffix_of_content
from gcis_runtime.images.other_file import refuse_other_file
from gcis_runtime.images.suffixes import READABLE
from gcis_runtime.pipeline.options import Callbacks, Progress
from gcis_runtime.pipeline.segmenter import Segmenter
from gcis_runtime.runs.case import read_case, segment_case, write_case
from gcis_runtime.runs.inputs import Source
from gcis_runtime.runs.options import RunOptions
from gcis_runtime.runs.outputs import plan_jobs
from gcis_runtime.system.json_files import json_bytes


def segment_bytes(
    segmenter: Segmenter, content: bytes, *, progress: Progress | None = None
) -> tuple[bytes, bytes]:
    """Segment an image file that is in memory.

    Args:
        segmenter: The open segmenter.
        content: Content of a NIfTI file, compressed or not; with SimpleITK also of an NRRD or MetaImage file.
        progress: Called after each window. An error that it raises abandons the case; the segmenter stays
            usable.

    Returns:
        Content of the label map, in the format of the image (NIfTI compressed), and of the JSON report.

    Raises:
        ImageError: The image cannot be used.
        MemoryLimitError: It needs more memory than there is.
        EngineError: The engine failed.
    """
    if not content:
        raise ImageError("the image is empty", received="0 bytes", expected="the content of an image file")
    suffix = suffix_of_content(content[:HEAD])
    suffix = suffix if suffix in READABLE else ".nii"  # whose reader names what it finds
    with tempfile.TemporaryDirectory(prefix="gcis-") as folder:
        image = Path(folder) / f"image{suffix}"
        image.write_bytes(content)
        refuse_other_file(image)
        try:
            (job,) = plan_jobs([Source(image=image, name="image")], f"{folder}/")
            case = read_case(segmenter, job, RunOptions())
            result = segment_case(segmenter, case, RunOptions(), Callbacks(on_progress=progress))
            report = write_case(case, result, RunOptions())
        except GcisError as error:
            raise _without(error, f"{folder}/") from error
        report = msgspec.structs.replace(report, image="", labels="", key=msgspec.UNSET)
        return job.labels.read_bytes(), json_bytes(report)


def _without(error: GcisError, folder: str) -> GcisError:
    """Return an error that does not name a temporary folder, which the client does not know."""
    parts = (error.received, error.expected, error.fix)
    received, expected, fix = (None if part is None else part.replace(folder, "") for part in parts)
    return type(error)(error.message.replace(folder, ""), received=received, expected=expected, fix=fix)
