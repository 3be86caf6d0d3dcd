"""Read the schema version of a file before its content, and name the gCIS version that reads a newer one."""

from __future__ import annotations

from typing import Any

import msgspec

from gcis_runtime.errors import GcisError


class Head(msgspec.Struct):
    """Fields that determine whether the rest of a file can be decoded.

    Attributes:
        schema: Name of the schema. Reports have the number of their version here.
        schema_version: Version of the schema.
        versions: Versions of packages that wrote the file, `gcis` among them (bundles).
        provenance: Notes, `gcis` among them (checkpoints).
    """

    schema: str | int = ""
    schema_version: int = 0
    versions: Any = None
    provenance: Any = None

    @property
    def version(self) -> int:
        """Version of the schema, wherever the file has it."""
        return self.schema if isinstance(self.schema, int) else self.schema_version

    @property
    def writer(self) -> str | None:
        """Version of gCIS that wrote the file; None if the file does not contain it."""
        places = [part for part in (self.versions, self.provenance) if isinstance(part, dict)]
        found = next((part["gcis"] for part in places if "gcis" in part), None)
        return found[:40] if isinstance(found, str) else None


def read_head(data: bytes) -> Head | None:
    """Return the head of JSON data; None if it has none."""
    try:
        return msgspec.json.decode(data, type=Head)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None


def refuse_newer(source: str, data: bytes, newest: int, kind: type[GcisError]) -> None:
    """Raise the error of `newer_version` for JSON data of a newer version; data without a head pass."""
    head = read_head(data)
    error = None if head is None else newer_version(source, head, newest, kind)
    if error is not None:
        raise error


def newer_version(source: str, head: Head, newest: int, kind: type[GcisError]) -> GcisError | None:
    """Return an error for a file that a newer gCIS wrote; None for versions that this one knows.

    Args:
        source: Name of the file.
        head: Its head.
        newest: Newest version of the schema that this gCIS reads.
        kind: Type of the error.
    """
    if head.version <= newest:
        return None
    needed = f"the gcis that wrote it ({head.writer}) or a later one" if head.writer else "a newer gcis"
    return kind(
        f"{source} was written by a newer gcis",
        received=f"schema version {head.version}",
        expected=f"at most version {newest}",
        fix=f"Install {needed}.",
    )
