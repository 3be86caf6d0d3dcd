"""Gzip at the speed of the processor: through isal where it is installed, else through Python's zlib.

isal (Intel's library, wheels of 0.3 MB for x86-64 and arm64) reads three times and writes label maps ten
times as fast as zlib. Its threaded reader and writer were slower than its plain ones (docs/decisions/0037).
"""

from __future__ import annotations

import gzip
import importlib
import zlib
from typing import IO, Any, cast

MAX_DEFLATE_RATIO = 1040
"""Deflate cannot shrink more than 1032:1, so a header that claims more is refused at once."""
ACCELERATOR = "isal"
_LEVEL = 1
"""Label maps shrink a hundredfold at any level, and higher ones cost time."""


def open_reader(raw: IO[bytes]) -> IO[bytes]:
    """Return a stream of the uncompressed bytes of `raw`; reading it may raise what `damage` lists."""
    isal = _isal()
    if isal is None:
        return cast("IO[bytes]", gzip.GzipFile(fileobj=raw, mode="rb"))
    return cast("IO[bytes]", isal.IGzipFile(fileobj=raw, mode="rb"))


def open_writer(raw: IO[bytes]) -> IO[bytes]:
    """Return a stream that compresses into `raw`; no name, no time: equal data make equal files."""
    isal = _isal()
    kind = gzip.GzipFile if isal is None else isal.IGzipFile
    return cast("IO[bytes]", kind(filename="", fileobj=raw, mode="wb", compresslevel=_LEVEL, mtime=0))


def damage() -> tuple[type[Exception], ...]:
    """Return what reading a damaged or truncated stream raises."""
    isal = _isal()
    known: tuple[type[Exception], ...] = (EOFError, gzip.BadGzipFile, zlib.error)
    return known if isal is None else (*known, importlib.import_module("isal.isal_zlib").error)


def engine() -> str:
    """Return what compresses here: `"isal"` or `"zlib"`."""
    return "zlib" if _isal() is None else ACCELERATOR


def _isal() -> Any:
    """Return isal's gzip module, or None where it is not installed."""
    try:
        return importlib.import_module("isal.igzip")
    except ImportError:
        return None
