"""Decode JPEG with 12 bits per sample (process 4) by GDCM, which pydicom does not use for it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"


def decode_jpeg12(code: bytes, *, rows: int, columns: int, bits: int, signed: bool) -> NDArray[Any]:
    """Return the stored values (rows, columns) of one frame: uint16, or int16 if signed.

    Args:
        code: Code stream of the frame.
        rows: Rows of the frame, those in the code stream.
        columns: Columns of the frame, as above.
        bits: BitsStored, 9 to 12.
        signed: PixelRepresentation.

    Raises:
        ImportError: GDCM is not installed.
        ValueError: The code stream is damaged or ends early.
    """
    import gdcm  # noqa: PLC0415 (optional)

    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(code)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((columns, rows, 1))
    image.SetPhotometricInterpretation(
        gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2)
    )
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGExtendedProcess2_4))
    # With 16 bits allocated, GDCM tries its decoder for 16 bits first, which prints a line per frame.
    image.SetPixelFormat(gdcm.PixelFormat(1, 12, 12, 11, 0))
    image.SetDataElement(element)
    text = image.GetBuffer()  # bytes as text; None if decoding failed
    data = b"" if text is None else text.encode("utf-8", "surrogateescape")
    if len(data) != 2 * rows * columns:
        raise ValueError("the code stream is damaged or ends early")
    values = np.frombuffer(data, dtype=np.uint16).reshape(rows, columns)
    if not signed:
        return values
    unused = 16 - bits
    return np.asarray((values << unused).view(np.int16) >> unused)
