"""Read lists of images: CSV files with commas, semicolons or tabs, in UTF-8 or UTF-16."""

from __future__ import annotations

import codecs
import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gcis_runtime.errors import ImageError

SEPARATORS = (",", ";", "\t")
_NAMES = {",": "commas", ";": "semicolons", "\t": "tabs"}
_FIX = "The first line names the columns: image, and optionally name."
_UTF16 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


@dataclass(frozen=True, kw_only=True)
class ListedImage:
    """A row of a list.

    Attributes:
        row: Number of the row, from 1, without the header and blank rows.
        image: Value of the column `image`.
        name: Value of the column `name`; empty if there is none.
    """

    row: int
    image: str
    name: str


def read_list(path: Path) -> list[ListedImage]:
    """Read a list; columns other than `image` and `name` are ignored, and so are blank rows and a
    line `sep=;` at the start.

    The separator is the one that gives a column `image`. Case and spaces around column names do not matter.

    Raises:
        ImageError: The file cannot be read, has no column `image`, lists no image, or a row has no image.
    """
    try:
        data = path.read_bytes()
        text = data.decode(_encoding(data))
        rows, separator = _table(text)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ImageError(
            f"{path} cannot be read", received=str(error), expected="a CSV file in UTF-8 or UTF-16", fix=_FIX
        ) from error
    if not rows:
        raise ImageError(f"{path} has no column 'image'", received="an empty file", fix=_FIX)
    columns = [name.strip().casefold() for name in rows[0]]
    if "image" not in columns:
        raise ImageError(
            f"{path} has no column 'image'",
            received=f"{', '.join(rows[0])} (separated by {_NAMES[separator]})",
            expected="columns separated by commas, semicolons or tabs",
            fix=_FIX,
        )
    if twice := next((name for name in ("image", "name") if columns.count(name) > 1), None):
        raise ImageError(f"{path} has two columns {twice!r}", received=", ".join(rows[0]), fix=_FIX)
    found = list(_images(path, columns, rows[1:]))
    if not found:
        raise ImageError(f"{path} lists no image", fix=_FIX)
    return found


def _encoding(data: bytes) -> str:
    """Return the encoding of a list: that of its byte order mark, else by the zero bytes of UTF-16."""
    if data.startswith(_UTF16):
        return "utf-16"
    zeros = data[0:1] == b"\x00", data[1:2] == b"\x00"
    return {(True, False): "utf-16-be", (False, True): "utf-16-le"}.get(zeros, "utf-8-sig")


def _table(text: str) -> tuple[list[list[str]], str]:
    """Return the rows that are not blank, and the separator that gives a column `image` (else a comma)."""
    for separator in SEPARATORS:
        rows = _rows(text, separator)
        if rows and "image" in [name.strip().casefold() for name in rows[0]]:
            return rows, separator
    counts = {separator: text.partition("\n")[0].count(separator) for separator in SEPARATORS}
    likely = max(SEPARATORS, key=lambda separator: counts[separator])
    return _rows(text, likely), likely


def _rows(text: str, separator: str) -> list[list[str]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    rows = [row for row in reader if any(cell.strip() for cell in row)]
    # Spreadsheet programs write their separator into a line of its own.
    return rows[1:] if rows and rows[0][0].strip().lower().startswith("sep=") else rows


def _images(path: Path, columns: list[str], rows: list[list[str]]) -> Iterator[ListedImage]:
    for number, row in enumerate(rows, start=1):
        cells = dict(zip(columns, row, strict=False))
        image = cells.get("image", "").strip()
        if not image:
            raise ImageError(f"{path} has no image in row {number}", fix="Remove the row, or name a file.")
        yield ListedImage(row=number, image=image, name=cells.get("name", "").strip())
