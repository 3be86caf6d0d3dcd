"""Describe a case as a multipart form that is streamed from its files."""

from __future__ import annotations

import secrets
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from gcis_runtime.dicom.series import Series
from gcis_runtime.images.files import read_grid, read_volume
from gcis_runtime.images.nifti import write_volume
from gcis_runtime.images.suffixes import suffix_of
from gcis_runtime.runs.options import RunOptions
from gcis_runtime.runs.outputs import Job
from gcis_runtime.serve.request import JobRequest

_BLOCK = 1 << 20
_PAIRS = (".hdr", ".mhd", ".nhdr")
"""Headers whose voxels are in another file; a form holds one file per image."""


@dataclass(frozen=True, kw_only=True)
class Form:
    """A multipart form.

    Attributes:
        fields: Options.
        files: Name and path of each file.
        boundary: Boundary of the parts.
    """

    fields: tuple[tuple[str, str], ...]
    files: tuple[tuple[str, Path], ...]
    boundary: str

    @property
    def headers(self) -> dict[str, str]:
        """Content type and length."""
        length = sum(len(p) if isinstance(p, bytes) else p.stat().st_size for p in self._pieces())
        return {
            "Content-Type": f"multipart/form-data; boundary={self.boundary}",
            "Content-Length": str(length),
        }

    def body(self) -> Iterator[bytes]:
        """Yield the form."""
        for piece in self._pieces():
            if isinstance(piece, bytes):
                yield piece
                continue
            with piece.open("rb") as file:
                while block := file.read(_BLOCK):
                    yield block

    def _pieces(self) -> Iterator[bytes | Path]:
        for name, text in self.fields:
            yield self._head(f'name="{name}"') + text.encode() + b"\r\n"
        for name, path in self.files:
            # The file's own name may be that of a patient.
            yield self._head(f'name="{name}"; filename="{name}"')
            yield path
            yield b"\r\n"
        yield f"--{self.boundary}--\r\n".encode()

    def _head(self, disposition: str) -> bytes:
        return f"--{self.boundary}\r\nContent-Disposition: form-data; {disposition}\r\n\r\n".encode()


def request_for(job: Job, options: RunOptions, *, bundle: str, prompts: tuple[str, ...]) -> JobRequest:
    """Return the request of a case with the options of `gcis-run`."""
    segment, dicom = options.segment, options.dicom
    roi = segment.roi if isinstance(segment.roi, str) and mask_of(options) is None else None
    formats = msgspec.convert([name for name, _ in job.formats], tuple, strict=True)
    return JobRequest(
        bundle=bundle, prompt=prompts, format=formats, restore=segment.restore, raw=segment.raw,
        masks=segment.masks, probability=segment.probabilities, statistics=options.statistics,
        preview=options.preview, report_html=options.report_html, roi=roi,
        coarse=options.coarse_bundle or segment.coarse_factor, body_crop=segment.body_crop,
        straighten=segment.straighten,
        max_memory=None if segment.max_memory is None else str(segment.max_memory),
        allow_irregular=dicom.allow_irregular, seg_type=dicom.seg_type, sr=dicom.sr, uid_root=dicom.uid_root,
    )  # fmt: skip


def mask_of(options: RunOptions) -> Path | None:
    """Return the mask that limits the region of interest; None for ranges or a structure."""
    roi = options.segment.roi
    if roi is None:
        return None
    path = Path(roi)
    return path if not isinstance(roi, str) or suffix_of(path) or path.is_file() else None


def form_of(job: Job, options: RunOptions, request: JobRequest, scratch: Path) -> Form:
    """Return the form of a case.

    Args:
        job: The case.
        options: Options of the run, which name a mask and a true label map.
        request: Options of the job.
        scratch: Folder for temporary files.

    Raises:
        ImageError: The image cannot be read.
        OSError: A file cannot be read.
    """
    files = [("image", _image(job, scratch))]
    for name, path in (("roi", mask_of(options)), ("truth", options.truth)):
        if path is not None:
            read_grid(path)
            files.append((name, _single(path, scratch / f"{name}.nii.gz")))
    fields: list[tuple[str, str]] = []
    for key, value in msgspec.to_builtins(request).items():
        for part in value if isinstance(value, list | tuple) else [value]:
            fields.append((key, str(part).lower() if isinstance(part, bool) else str(part)))
    return Form(fields=tuple(fields), files=tuple(files), boundary=secrets.token_hex(16))


def _image(job: Job, scratch: Path) -> Path:
    if job.series is not None:
        return _archive(job.series, scratch / "image.zip")
    read_grid(job.image)  # a missing or damaged file is reported before it is sent
    return _single(job.image, scratch / "image.nii.gz")


def _single(path: Path, scratch: Path) -> Path:
    """Return an image as one file."""
    if suffix_of(path) not in _PAIRS:
        return path
    write_volume(scratch, read_volume(path))
    return scratch


def _archive(series: Series, path: Path) -> Path:
    """Write the files of a series into a zip archive, without compression and without their names."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for file in series.files:
            with file.open() as source, archive.open(f"{file.number:06d}.dcm", "w") as member:
                while block := source.read(_BLOCK):
                    member.write(block)
    return path
