"""Read and write JSON files, and format JSON for standard output."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from gcis_runtime.system.atomic_files import replacing

_T = TypeVar("_T")

_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")


def json_bytes(value: Any, *, indent: int = 2) -> bytes:
    """Return a value as indented JSON in UTF-8 with a final newline.

    Args:
        value: Anything that msgspec encodes: structs, dataclasses, containers, numbers and text.
        indent: Spaces per level.
    """
    return msgspec.json.format(msgspec.json.encode(value), indent=indent) + b"\n"


def json_text(value: Any, *, indent: int = 2) -> str:
    """Return a value as indented JSON in ASCII without a final newline, as `click.echo` expects.

    Other characters are escaped, since standard output may have any encoding (`cp1252` for pipes on Windows).
    """
    text = json_bytes(value, indent=indent).decode().removesuffix("\n")
    return _NOT_ASCII.sub(lambda found: json.dumps(found[0])[1:-1], text)


def write_json(path: Path, value: Any, *, indent: int = 2) -> None:
    """Write a value as indented JSON, atomically.

    Args:
        path: The file; missing folders above it are created.
        value: See `json_bytes`.
        indent: Spaces per level.

    Raises:
        OutputError: The file cannot be written.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(json_bytes(value, indent=indent))


def read_json(path: Path, kind: type[_T], *, most_bytes: int | None = None) -> _T:
    """Read a JSON file into a type.

    Args:
        path: The file.
        kind: The type that msgspec decodes and validates.
        most_bytes: Size in bytes above which the file is not read; None for no limit.

    Raises:
        OSError: The file cannot be read.
        msgspec.DecodeError: It is not JSON, does not match `kind`, or is larger than `most_bytes`.
    """
    size = path.stat().st_size
    if most_bytes is not None and size > most_bytes:
        raise msgspec.DecodeError(f"{path} has {size} bytes, more than {most_bytes}")
    return msgspec.json.decode(path.read_bytes(), type=kind)
