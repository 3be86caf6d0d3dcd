"""Decode the voxels of slices to HU, within the sizes that their headers state."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gcis_runtime.dicom.codestream import codestream_size
from gcis_runtime.dicom.files import DicomFile
from gcis_runtime.dicom.frames import Frame
from gcis_runtime.dicom.headers import (
    DEFLATED,
    UnreadableDicomError,
    attribute,
    number_of,
    read_dataset,
    read_native,
    text_of,
)
from gcis_runtime.dicom.jpeg12 import JPEG_EXTENDED, decode_jpeg12
from gcis_runtime.errors import ImageError
from gcis_runtime.system.cpus import usable_cpus

AIR = -1024
"""HU of padding voxels, outside the field of view of the scanner."""
_NATIVE = {
    "1.2.840.10008.1.2": "<",  # implicit little endian
    "1.2.840.10008.1.2.1": "<",
    "1.2.840.10008.1.2.2": ">",
    DEFLATED: "<",
}
_DECOMPRESS = (
    "Export the series again, or decompress its files: `gdcmconv --raw IN OUT`, or dcmdjpeg, dcmdjpls and "
    "dcmdrle of dcmtk."
)


class PixelReader:
    """Reads slices as HU; a multi-frame file is opened once.

    Args:
        frames: The slices that will be read.
    """

    def __init__(self, frames: Sequence[Frame]) -> None:
        self._shared = {f.file for f in frames if f.index is not None}
        self._open: dict[DicomFile, Any] = {}
        self._lock = threading.Lock()

    def read(self, frame: Frame) -> NDArray[np.float32]:
        """Return the HU (rows, columns) of a slice.

        Raises:
            ImageError: The voxels are missing, damaged, or encoded in an unsupported way.
        """
        try:
            stored = self._stored(frame)
        except UnreadableDicomError as error:
            raise ImageError(f"{frame.name} cannot be read", received=str(error)) from error
        values = stored.astype(np.float32)
        if frame.slope != 1:
            values *= np.float32(frame.slope)
        values += np.float32(frame.intercept)
        padding = _padding(frame.header, stored)
        if padding is not None:
            values[padding] = AIR
        return values

    def _stored(self, frame: Frame) -> NDArray[Any]:
        """Return the stored values (rows, columns) of a slice."""
        syntax = _syntax(frame.header)
        order = "<" if not syntax else _NATIVE.get(syntax)
        if order is not None and frame.pixel_offset is not None and frame.index is None:
            size = frame.rows * frame.columns * int(number_of(frame.header, "BitsAllocated") or 16) // 8
            data = read_native(frame.file, frame.pixel_offset, order=order, size=size)
            return _native(frame, data, order)
        dataset = self._dataset(frame)
        if not attribute(dataset, "PixelData"):
            raise UnreadableDicomError("no voxels at the end of the header")
        if order is not None:
            return _native(frame, dataset.PixelData, order)
        return _compressed(dataset, frame, syntax)

    def _dataset(self, frame: Frame) -> Any:
        if frame.file not in self._shared:
            return read_dataset(frame.file)
        with self._lock:
            if frame.file not in self._open:
                self._open[frame.file] = read_dataset(frame.file)
            return self._open[frame.file]


def read_slices(frames: Sequence[Frame]) -> NDArray[Any]:
    """Return the HU of slices as (columns, rows, slices): int16 if all are whole and fit, else float32.

    Raises:
        ImageError: See `PixelReader.read`.
    """
    first = frames[0]
    whole = all(f.slope == int(f.slope) and f.intercept == int(f.intercept) for f in frames)
    out = np.empty((len(frames), first.rows, first.columns), dtype=np.int16 if whole else np.float32)
    reader = PixelReader(frames)
    wide = threading.Event()

    def fill(index: int) -> None:
        values = reader.read(frames[index])
        if whole and (values.min() < -32768 or values.max() > 32767):
            wide.set()
            return
        out[index] = values

    with ThreadPoolExecutor(usable_cpus(), thread_name_prefix="gcis-dicom") as pool:
        list(pool.map(fill, range(len(frames))))
    if wide.is_set():
        out = np.stack([reader.read(f) for f in frames])
    return out.transpose(2, 1, 0)


def _syntax(dataset: Any) -> str:
    meta = getattr(dataset, "file_meta", None)
    return "" if meta is None else text_of(meta, "TransferSyntaxUID")


def _native(frame: Frame, data: bytes, order: str) -> NDArray[Any]:
    """Return the stored values (rows, columns) in the voxels of a file that is not compressed."""
    dataset = frame.header
    allocated = int(number_of(dataset, "BitsAllocated") or 16)
    stored = int(number_of(dataset, "BitsStored") or allocated)
    signed = bool(number_of(dataset, "PixelRepresentation"))
    high = int(number_of(dataset, "HighBit") or stored - 1)
    if allocated not in (8, 16, 32) or not 1 <= stored <= allocated or high != stored - 1:
        raise ImageError(
            f"{frame.name} has an unsupported encoding",
            received=f"{stored} of {allocated} bits, the highest {high}",
            expected="8, 16 or 32 bits allocated, the lowest ones used",
        )
    size = allocated // 8
    count = frame.rows * frame.columns
    start = (frame.index or 0) * count * size
    if len(data) < start + count * size:
        raise ImageError(
            f"{frame.name} ends early",
            received=f"{max(len(data) - start, 0)} bytes of voxels",
            expected=f"{count * size}",
            fix="Export or copy the series again.",
        )
    kind = f"{order}{'i' if signed else 'u'}{size}"
    values = np.frombuffer(data, dtype=kind, count=count, offset=start).reshape(frame.rows, frame.columns)
    if stored == allocated:
        return values
    unused = allocated - stored  # may hold overlays: shifted out, with the sign restored
    lean = values.astype(kind.replace(order, "="))
    return np.asarray((lean << unused) >> unused)


def _compressed(dataset: Any, frame: Frame, syntax: str) -> NDArray[Any]:
    """Decode one compressed frame after comparing the size in its code stream with the header."""
    from pydicom.encaps import get_frame  # noqa: PLC0415 (optional)
    from pydicom.pixels.decoders.base import get_decoder  # noqa: PLC0415
    from pydicom.uid import UID  # noqa: PLC0415

    index = frame.index or 0
    frames = int(number_of(dataset, "NumberOfFrames") or 1)
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise ImageError(
            f"{frame.name} has an unsupported transfer syntax",
            received=UID(syntax).name,
            expected="uncompressed, RLE, JPEG, JPEG-LS or JPEG 2000",
            fix=_DECOMPRESS,
        ) from error
    bits = int(number_of(dataset, "BitsStored") or 8)
    try:
        code = get_frame(dataset.PixelData, index, number_of_frames=frames)
        size = codestream_size(code)
        if size is not None and size != (frame.columns, frame.rows):
            raise ImageError(
                f"{frame.name} has compressed data of another size",
                received=f"{size[0]} x {size[1]}",
                expected=f"{frame.columns} x {frame.rows}",
            )
        if syntax == JPEG_EXTENDED and bits > 8:
            signed = bool(number_of(dataset, "PixelRepresentation"))
            return decode_jpeg12(code, rows=frame.rows, columns=frame.columns, bits=bits, signed=signed)
        array, _ = decoder.as_array(dataset, index=index, raw=True)
    except ImageError:
        raise
    except Exception as error:  # decoders raise many types
        available = ", ".join(decoder.available_plugins) or "none"
        raise ImageError(
            f"{frame.name} cannot be decoded",
            received=f"{decoder.UID.name} of {bits} bits, {type(error).__name__}",
            expected="complete data and a decoder",
            fix=f"Decoders installed for it: {available}. Install 'gcis[dicom]'. {_DECOMPRESS}",
        ) from error
    if array.shape != (frame.rows, frame.columns):
        raise ImageError(
            f"{frame.name} is decoded to another size",
            received=str(array.shape),
            expected=f"({frame.rows}, {frame.columns})",
        )
    return np.asarray(array)


def _padding(dataset: Any, stored: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Return where stored values are padding (PixelPaddingValue, with PixelPaddingRangeLimit a range)."""
    first = number_of(dataset, "PixelPaddingValue")
    if first is None or not text_of(dataset, "PixelPaddingValue"):
        return None
    last = number_of(dataset, "PixelPaddingRangeLimit")
    low, high = sorted((first, first if last is None else last))
    if bool(number_of(dataset, "PixelRepresentation")):  # implicit files may store the pattern as unsigned
        bits = int(number_of(dataset, "BitsAllocated") or 16)
        low, high = sorted(v - (1 << bits) if v >= 1 << (bits - 1) else v for v in (low, high))
    return np.asarray((stored >= low) & (stored <= high))
