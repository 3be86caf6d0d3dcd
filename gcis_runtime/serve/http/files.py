"""Write received files to disk, and name them by their content."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

from anyio import to_thread

from gcis_runtime.errors import ImageError
from gcis_runtime.images.contents import HEAD, suffix_of_content
from gcis_runtime.images.other_file import refuse_other_file
from gcis_runtime.serve.problems import ServeError, refusal_of
from gcis_runtime.serve.service import Upload
from gcis_runtime.serve.store import INPUT, private_texts

_CHUNK = 1 << 20


@dataclass(kw_only=True)
class ReceivedFile:
    """A file that is being received.

    Attributes:
        path: Its temporary path.
        handle: The open file.
        buffer: Data that are not written yet.
        head: Its first bytes.
    """

    path: Path
    handle: BinaryIO
    buffer: bytearray = field(default_factory=bytearray)
    head: bytes = b""

    async def write(self, data: bytes) -> None:
        """Append data."""
        if len(self.head) < HEAD:
            self.head = (self.head + data)[:HEAD]
        self.buffer += data
        if len(self.buffer) >= _CHUNK:
            await self.flush()

    async def flush(self) -> None:
        """Write what is buffered."""
        data, self.buffer = bytes(self.buffer), bytearray()
        if data:
            await to_thread.run_sync(self.handle.write, data)


def placed(upload: Upload, files: Sequence[ReceivedFile], name: str = "image") -> str:
    """Rename received files by their content, and return the path relative to the folder of the upload.

    Raises:
        ServeError: They are neither one image nor DICOM files, or the image names another file.
    """
    suffixes = [suffix_of_content(file.head) for file in files]
    if all(suffix == ".dcm" for suffix in suffixes) and name == "image":
        folder = upload.input / name
        folder.mkdir()
        for number, file in enumerate(files, start=1):
            file.path.replace(folder / f"{number:06d}.dcm")
        return f"{INPUT}/{name}"
    if len(files) == 1 and suffixes[0] not in ("", ".dcm"):
        final = upload.input / f"{name}{suffixes[0]}"
        files[0].path.replace(final)
        try:
            refuse_other_file(final)
        except ImageError as error:
            raise refusal_of(error, private=private_texts(upload.folder, final.name)) from error
        return f"{INPUT}/{final.name}"
    odd = next((i for i, suffix in enumerate(suffixes) if suffix in ("", ".dcm")), 0)
    raise ServeError(
        f"the upload is not {'an image' if name == 'image' else 'a label map'}",
        status=415,
        received=f"{len(files)} files"
        if all(suffixes)
        else f"a file that begins with {files[odd].head[:8]!r}",
        expected="one file: NIfTI, NRRD, MetaImage, or a zip archive of a DICOM series; or DICOM files",
        fix="Send one image per job.",
    )
