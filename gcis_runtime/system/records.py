"""Read small JSON files that gCIS wrote itself earlier, such as cache records, calibration and reports.

They may have been damaged, replaced or written by another version since. Nothing depends on them: a file that
cannot be used is ignored, and the reason is logged, which a command prints on standard error.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from gcis_runtime.errors import OutputError
from gcis_runtime.schema_version import refuse_newer
from gcis_runtime.system.own_files import read_small
from gcis_runtime.text import printable

_T = TypeVar("_T")
_LOG = logging.getLogger(__name__)

MOST_BYTES = 4 << 20
"""The largest of these files, a report with one path per structure, has about 100 kB."""
MOST_LEVELS = 64
"""Reports have six levels. Parsers recurse once per level."""


@dataclass(frozen=True, kw_only=True)
class Record(Generic[_T]):
    """Content of a small file.

    Attributes:
        value: The decoded value; None if the file is missing or cannot be used.
        note: Why the file is ignored; None if it was used or does not exist.
    """

    value: _T | None = None
    note: str | None = None


def read_record(
    path: Path, kind: type[_T], *, most_bytes: int = MOST_BYTES, newest: int | None = None
) -> Record[_T]:
    """Read a small JSON file into a type; never raise because of its content, except its version.

    Args:
        path: The file; a link is not followed.
        kind: Type that the content must match.
        most_bytes: Largest size in bytes.
        newest: Newest version of the schema, for files that must not be replaced by an earlier version; None
            ignores newer files like any other that does not match.

    Raises:
        OutputError: The version is later than `newest`.
    """
    try:
        data = read_small(path, most_bytes=most_bytes)
        if newest is not None:
            refuse_newer(str(path), data, newest, OutputError)
        if _levels(data) > MOST_LEVELS:
            return _ignored(path, f"nested deeper than {MOST_LEVELS} levels")
        data.decode("utf-8")
        return Record(value=msgspec.json.decode(data, type=kind))
    except FileNotFoundError:
        return Record()
    except OSError as error:
        return _ignored(path, error.strerror or str(error))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, OverflowError, ValueError) as error:
        return _ignored(path, str(error))


def _ignored(path: Path, reason: str) -> Record[_T]:
    note = printable(f"{path} is ignored: {' '.join(reason.split())[:200]}")
    _LOG.warning("gcis: note: %s", note)
    return Record(note=note)


def _levels(data: bytes) -> int:
    """Return the number of brackets that are open at once, at most; brackets in text do not count."""
    if data.count(b"[") + data.count(b"{") <= MOST_LEVELS:
        return 0
    level = most = 0
    in_text = escaped = False
    for byte in data:
        if in_text:
            in_text = escaped or byte != 0x22
            escaped = not escaped and byte == 0x5C
        elif byte == 0x22:
            in_text = True
        elif byte in b"[{":
            level += 1
            most = max(most, level)
        elif byte in b"]}":
            level -= 1
    return most
