"""Read the headers of DICOM files: everything but the voxels."""

from __future__ import annotations

import io
import struct
import zlib
from dataclasses import dataclass
from typing import Any

from gcis_runtime.dicom.files import DicomFile, load_pydicom
from gcis_runtime.errors import ImageError
from gcis_runtime.images.dicom_content import is_dicom
from gcis_runtime.system.memory import bytes_text

DEFLATED = "1.2.840.10008.1.2.1.99"
_MAX_INFLATED = 4 << 30
_MAX_RATIO = 200
_PIXEL_DATA = 0x7FE00010


class UnreadableDicomError(Exception):
    """A file is not DICOM or is damaged; the text gives the reason without names from the file."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Header:
    """A file without its voxels.

    Attributes:
        dataset: Attributes before the voxels.
        pixel_offset: Offset of the element with the voxels; None in archives and deflated files.
    """

    dataset: Any
    pixel_offset: int | None


def read_header(file: DicomFile) -> Header:
    """Read a file without its voxels.

    Raises:
        UnreadableDicomError: The file is not DICOM or is damaged.
    """
    dataset, offset = _read(file, stop_before_pixels=True)
    return Header(dataset=dataset, pixel_offset=offset if file.entry is None else None)


def read_dataset(file: DicomFile) -> Any:
    """Read a file with its voxels, which stay encoded.

    Raises:
        UnreadableDicomError: See `read_header`.
    """
    return _read(file, stop_before_pixels=False)[0]


def read_native(file: DicomFile, offset: int, *, order: str, size: int) -> bytes:
    """Read voxels that are not compressed, without reading the header again.

    Args:
        file: The file.
        offset: Offset of the element with the voxels.
        order: `"<"` or `">"`, the byte order.
        size: Number of bytes that are needed.

    Raises:
        UnreadableDicomError: The file has changed, ends early, or has no voxels there.
    """
    try:
        with file.path.open("rb") as stream:
            stream.seek(offset)
            head = stream.read(12)
            numbers = struct.unpack(f"{order}HH", head[:4]) if len(head) == 12 else ()
            if numbers != (0x7FE0, 0x0010):
                raise UnreadableDicomError("no voxels at the end of the header")
            explicit = head[4:6] in (b"OW", b"OB")
            length = struct.unpack(f"{order}I", head[8:] if explicit else head[4:8])[0]
            stream.seek(offset + (12 if explicit else 8))
            return stream.read(min(size, length))
    except OSError as error:
        raise UnreadableDicomError(error.strerror or type(error).__name__) from error


def _read(file: DicomFile, *, stop_before_pixels: bool) -> tuple[Any, int | None]:
    pydicom = load_pydicom()
    try:
        with file.open() as stream:
            head = stream.read(132)
            if not is_dicom(head):
                raise UnreadableDicomError("not a DICOM file")
            stream.seek(132 if head.endswith(b"DICM") else 0)
            meta = pydicom.filereader.read_dataset(
                stream, False, True, stop_when=lambda tag, _vr, _length: tag.group != 2
            )
            if str(meta.get("TransferSyntaxUID", "")) == DEFLATED:
                data = stream.read()
                return _inflated(data, meta, pydicom, stop_before_pixels=stop_before_pixels), None
            stream.seek(0)
            dataset = pydicom.dcmread(stream, stop_before_pixels=stop_before_pixels, force=True)
            return dataset, stream.tell()
    except UnreadableDicomError:
        raise
    except OSError as error:
        raise UnreadableDicomError(error.strerror or type(error).__name__) from error
    except Exception as error:  # pydicom raises many types for damaged files
        raise UnreadableDicomError(f"damaged ({type(error).__name__})") from error


def _inflated(data: bytes, meta: Any, pydicom: Any, *, stop_before_pixels: bool) -> Any:
    """Return the data set of a deflated file, inflated within limits; pydicom would inflate without."""
    limit = min(_MAX_INFLATED, max(_MAX_RATIO * len(data), 1 << 20))
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    body = inflater.decompress(data, limit + 1)
    if len(body) > limit:
        raise UnreadableDicomError(f"it inflates to more than {bytes_text(limit)}")
    if not inflater.eof:
        raise UnreadableDicomError("the compressed data end early")
    stop = (lambda tag, _vr, _length: tag >= _PIXEL_DATA) if stop_before_pixels else None
    dataset = pydicom.filereader.read_dataset(io.BytesIO(body), False, True, stop_when=stop)
    dataset.file_meta = meta
    return dataset


def attribute(header: Any, name: str) -> Any:
    """Return an attribute; None if it is missing or damaged, since pydicom decodes at first access."""
    try:
        return header.get(name)
    except Exception:
        return None


def number_of(header: Any, name: str) -> float | None:
    """Return a numeric attribute; the first value if there are several, None if it is missing or invalid."""
    values = numbers_of(header, name)
    return values[0] if values else None


def numbers_of(header: Any, name: str) -> tuple[float, ...]:
    """Return the values of a numeric attribute; empty if it is missing or invalid."""
    try:
        value = attribute(header, name)
        if value is None or (isinstance(value, str) and not value.strip()):
            return ()
        items = [value] if isinstance(value, str | int | float) else list(value)
        return tuple(float(item) for item in items)
    except (TypeError, ValueError, OverflowError):
        return ()


def text_of(header: Any, name: str) -> str:
    """Return an attribute as text without surrounding blanks; several values are joined by a backslash."""
    value = attribute(header, name)
    if value is None:
        return ""
    if not isinstance(value, str | int | float) and hasattr(value, "__iter__"):
        return "\\".join(str(item).strip() for item in value)
    return str(value).strip()


def missing_attribute(name: str, where: str) -> ImageError:
    """Return the error for a slice without an attribute that reading it needs."""
    return ImageError(
        f"{where} has no valid {name}",
        expected=f"a CT image with {name}",
        fix="Export the series from the scanner or the PACS again.",
    )
