"""Decode JSON, write JSON files, and format JSON for standard output."""

from __future__ import annotations

import codecs
import json
import re
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from gcis_runtime.system.atomic_files import replacing

_T = TypeVar("_T")

_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")


def decode_json(data: bytes, kind: type[_T]) -> _T:
    """Decode JSON into a type; a byte order mark is skipped, and UTF-16 with one is read.

    Raises:
        msgspec.DecodeError: It is not JSON in UTF-8 or UTF-16, is nested too deep, or does not match `kind`.
    """
    try:
        if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # `>` of Windows PowerShell 5
            data = data.decode("utf-16").encode()
        data = data.removeprefix(codecs.BOM_UTF8)
        return msgspec.json.decode(data, type=kind)
    except (UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise msgspec.DecodeError(str(error)) from error


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
