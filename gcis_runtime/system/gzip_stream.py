"""Read and write gzip streams, with isal if it is installed, else with Python's zlib.

isal (Intel's library, wheels of 0.3 MB for x86-64 and arm64) reads three times and writes label maps ten
times as fast as zlib. Its threaded reader and writer were slower than its plain ones (docs/decisions/0037).
"""

from __future__ import annotations

import gzip
import importlib
import zlib
from typing import IO, Any, cast

MAX_DEFLATE_RATIO = 1040
"""Deflate cannot shrink more than 1032:1, so that a header that claims more is refused immediately."""
ACCELERATOR = "isal"
_LEVEL = 1
"""Label maps shrink a hundredfold at any level, and higher levels are slower."""


def open_reader(raw: IO[bytes]) -> IO[bytes]:
    """Return a stream of the uncompressed bytes of `raw`; reading it may raise the exceptions of `damage`."""
    isal = _isal()
    if isal is None:
        return cast("IO[bytes]", gzip.GzipFile(fileobj=raw, mode="rb"))
    return cast("IO[bytes]", isal.IGzipFile(fileobj=raw, mode="rb"))


def open_writer(raw: IO[bytes]) -> IO[bytes]:
    """Return a stream that compresses into `raw`, without name and time: equal data give equal files."""
    isal = _isal()
    kind = gzip.GzipFile if isal is None else isal.IGzipFile
    return cast("IO[bytes]", kind(filename="", fileobj=raw, mode="wb", compresslevel=_LEVEL, mtime=0))


def damage() -> tuple[type[Exception], ...]:
    """Return the exceptions that are raised when a damaged or truncated stream is read."""
    isal = _isal()
    known: tuple[type[Exception], ...] = (EOFError, gzip.BadGzipFile, zlib.error)
    return known if isal is None else (*known, importlib.import_module("isal.isal_zlib").error)


def engine() -> str:
    """Return the name of the library in use: `"isal"` or `"zlib"`."""
    return "zlib" if _isal() is None else ACCELERATOR


def _isal() -> Any:
    """Return isal's gzip module, or None if it is not installed."""
    try:
        return importlib.import_module("isal.igzip")
    except ImportError:
        return None
