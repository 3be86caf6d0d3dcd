"""Read a multipart form part by part while it arrives."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from gcis_runtime.serve.problems import ServeError

_MOST_PARTS = 20_000
"""A DICOM series has at most some thousand slices."""
_MOST_HEADER = 8 << 10


@dataclass(kw_only=True)
class Part:
    """A part of a form.

    Attributes:
        name: Its name.
        is_file: Whether it has a file name.
        started: Whether the data with which it is yielded are its first.
        ended: Whether they are its last.
    """

    name: str = ""
    is_file: bool = False
    started: bool = True
    ended: bool = False


@dataclass(kw_only=True)
class _Header:
    name: bytes = b""
    value: bytes = b""
    disposition: bytes = b""


@dataclass(kw_only=True)
class _State:
    part: Part = field(default_factory=Part)
    header: _Header = field(default_factory=_Header)
    parts: int = 0
    events: list[tuple[Part, bytes]] = field(default_factory=list)
    complete: bool = False


class FormReader:
    """Reads one form.

    Args:
        boundary: Boundary of the parts.
    """

    def __init__(self, boundary: bytes) -> None:
        self._boundary = boundary
        self._state = _State()

    async def read(self, body: AsyncIterator[bytes]) -> AsyncIterator[tuple[Part, bytes]]:
        """Yield the data of each part in pieces; each part has a piece that starts and one that ends it.

        Raises:
            ServeError: The form is damaged, or has too many parts.
        """
        try:
            parser = MultipartParser(
                self._boundary,
                {
                    "on_part_begin": self._begin,
                    "on_header_field": self._name,
                    "on_header_value": self._value,
                    "on_header_end": self._header_end,
                    "on_headers_finished": self._headers,
                    "on_part_data": self._data,
                    "on_part_end": self._part_end,
                    "on_end": self._end,
                },
            )
            async for chunk in body:
                parser.write(chunk)
                events, self._state.events = self._state.events, []
                for part, data in events:
                    yield part, data
            parser.finalize()
        except FormParserError as error:
            raise _damaged(str(error)) from error
        if not self._state.complete:
            raise _damaged("a form without its end")

    def _begin(self) -> None:
        state = self._state
        state.parts += 1
        if state.parts > _MOST_PARTS:
            raise _damaged(f"more than {_MOST_PARTS} parts")
        state.part, state.header = Part(), _Header()

    def _name(self, data: bytes, start: int, end: int) -> None:
        self._state.header.name += data[start:end]
        self._check()

    def _value(self, data: bytes, start: int, end: int) -> None:
        self._state.header.value += data[start:end]
        self._check()

    def _check(self) -> None:
        if len(self._state.header.name) + len(self._state.header.value) > _MOST_HEADER:
            raise _damaged("a header of a part that is too long")

    def _header_end(self) -> None:
        header = self._state.header
        if header.name.lower() == b"content-disposition":
            header.disposition = header.value
        header.name = header.value = b""

    def _headers(self) -> None:
        _, options = parse_options_header(self._state.header.disposition)
        part = self._state.part
        part.name = options.get(b"name", b"").decode("utf-8", errors="replace")
        part.is_file = b"filename" in options
        self._state.events.append((Part(name=part.name, is_file=part.is_file), b""))

    def _data(self, data: bytes, start: int, end: int) -> None:
        part = self._state.part
        piece = Part(name=part.name, is_file=part.is_file, started=False)
        self._state.events.append((piece, data[start:end]))

    def _part_end(self) -> None:
        part = self._state.part
        self._state.events.append(
            (Part(name=part.name, is_file=part.is_file, started=False, ended=True), b"")
        )

    def _end(self) -> None:
        self._state.complete = True


def _damaged(received: str) -> ServeError:
    return ServeError(
        "the form cannot be read",
        status=422,
        received=received[:200],
        expected="multipart/form-data",
        fix="Send the image as the body, or let a library build the form.",
    )
