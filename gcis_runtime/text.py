"""Format messages and tables as plain text for terminals."""

from __future__ import annotations

from collections.abc import Sequence


def printable(text: str) -> str:
    """Escape characters that are not printable: file names may contain line breaks and control sequences."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def screen_text(text: str) -> str:
    """Escape characters that are not printable except line breaks, in text of several lines."""
    return "\n".join(map(printable, text.split("\n")))


def error_text(error: BaseException) -> str:
    """Return an error's message in one printable line; the type's name if there is no message."""
    message = f"out of memory {error}" if isinstance(error, MemoryError) else str(error)
    return printable(" ".join(message.split())) or type(error).__name__


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: `1 window`, `7 windows`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def table(rows: Sequence[Sequence[str]], *, right: Sequence[int] = ()) -> str:
    """Align rows in columns that are separated by two spaces.

    Args:
        rows: Cells, the header first; all rows have the same length.
        right: Columns that are aligned to the right (numbers).
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[c]) for row in rows) for c in range(len(rows[0]))] if rows else []
    lines = []
    for row in rows:
        cells = [
            cell.rjust(w) if c in right else cell.ljust(w)
            for c, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
