"""Check AE titles, the names of DICOM nodes."""

from __future__ import annotations

from gcis_runtime.errors import OutputError


def check_title(title: str) -> str:
    """Return an AE title.

    Raises:
        OutputError: It is empty, longer than 16 characters, or has other characters than ASCII.
    """
    clean = title.strip()
    if not 0 < len(clean) <= 16 or not clean.isascii() or not clean.isprintable() or "\\" in clean:
        raise OutputError(
            "the AE title is invalid",
            received=ascii(title),
            expected="1 to 16 printable ASCII characters without a backslash",
        )
    return clean
