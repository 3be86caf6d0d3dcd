"""Print to standard streams that may be closed, full, or of an encoding without the characters to print."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


class TolerantStream:
    """A text stream whose errors do not end the command: its work may be worth more than its messages.

    Args:
        stream: The stream. Characters that its encoding does not have are written as escape sequences.

    Attributes:
        failed: The first error of the stream; None if everything could be written.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failed: Exception | None = None
        with contextlib.suppress(AttributeError, OSError, ValueError):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[attr-defined]

    def __getattr__(self, name: str) -> Any:
        if name == "buffer":  # click would write to it if the encoding is ASCII
            raise AttributeError(name)
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write text, and return its length even if it could not be written."""
        if not isinstance(text, str):
            raise TypeError("a text stream takes text")
        try:
            if self.failed is None:
                self._stream.write(text)
        except (OSError, ValueError) as error:
            self.failed = error
        return len(text)

    def flush(self) -> None:
        """Write what is buffered."""
        try:
            if self.failed is None:
                self._stream.flush()
        except (OSError, ValueError) as error:
            self.failed = error

    def finish(self) -> None:
        """Write what is buffered; if that fails, discard it, so that the interpreter's exit does not fail."""
        self.flush()
        if self.failed is not None:
            with contextlib.suppress(OSError, ValueError, AttributeError):
                null = os.open(os.devnull, os.O_WRONLY)
                os.dup2(null, self._stream.fileno())
                os.close(null)


@contextlib.contextmanager
def tolerant_streams() -> Iterator[TolerantStream]:
    """Replace standard output and standard error by tolerant streams within the block.

    Standard streams that are closed (`2>&-`) are opened on the null device: otherwise the next file to be
    opened gets their descriptor, and libraries print into it.

    Yields:
        Standard output.
    """
    while (file := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(file, True)  # as standard streams are
    os.close(file)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))
    before = sys.stdout, sys.stderr
    out, error = TolerantStream(sys.stdout), TolerantStream(sys.stderr)
    sys.stdout, sys.stderr = out, error
    try:
        yield out
    finally:
        out.finish()
        error.finish()
        sys.stdout, sys.stderr = before
