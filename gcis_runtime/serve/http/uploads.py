"""Stream the body of a request to disk: an image, a multipart form, or JSON with a path below a root.

Nothing is kept in memory but one chunk. The size, the time and the number of bodies at the same time are
limited. The names of files are not used: the content determines the format.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
from anyio import to_thread
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect, Request

from gcis_runtime.serve.http.files import ReceivedFile, placed
from gcis_runtime.serve.http.multipart import FormReader, Part
from gcis_runtime.serve.problems import ServeError
from gcis_runtime.serve.request import JobRequest, request_of, request_of_fields
from gcis_runtime.serve.roots import below_roots
from gcis_runtime.serve.service import JobService, Upload
from gcis_runtime.system.memory import bytes_text

_MOST_JSON = 1 << 20
_MOST_FIELDS = 1 << 16
_DRAIN_BYTES, _DRAIN_SECONDS = 16 << 20, 2.0
"""Bytes and seconds of a refused body that are read, so that the client receives the answer."""


@dataclass(kw_only=True)
class Submission:
    """What a request submits.

    Attributes:
        request: Options.
        source: Path of the image, relative to the folder of the upload, or absolute below a root.
        roi: Path of a mask, relative to the folder of the upload.
        truth: Path of a true label map, relative to the folder of the upload.
        digest: SHA-256 hash of the content and the options.
    """

    request: JobRequest
    source: str
    roi: str | None = None
    truth: str | None = None
    digest: str = ""


class UploadSlots:
    """Counts uploads, so that slow ones occupy no place in the queue.

    Args:
        service: The service.
    """

    def __init__(self, service: JobService) -> None:
        self._service = service
        self._used = 0

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[None]:
        """Occupy a slot.

        Raises:
            ServeError: All are in use, or the queue is full.
        """
        service = self._service
        service.queue.refuse_if_full()
        if self._used >= service.limits.uploads:
            raise ServeError(
                "too many uploads at the same time",
                status=429,
                retry_after=min(600, 2 + service.queue.retry_after(1)),
                expected=f"at most {service.limits.uploads}",
                fix="Try again later.",
            )
        self._used += 1
        service.metrics.uploads.set(self._used)
        try:
            yield
        finally:
            self._used -= 1
            service.metrics.uploads.set(self._used)


async def receive(http: Request, service: JobService, upload: Upload, roots: Sequence[Path]) -> Submission:
    """Read the body of a request into the folder of an upload.

    Raises:
        ServeError: The body is too large or too slow, is no image, or its options are invalid.
        ClientDisconnect: The client went away.
    """
    limits = service.limits
    announced = http.headers.get("content-length", "")
    if announced.isdigit() and int(announced) > limits.upload_bytes:
        raise _too_large(int(announced), limits.upload_bytes)
    kind, options = parse_options_header(http.headers.get("content-type", ""))
    try:
        async with asyncio.timeout(limits.upload_seconds):
            body = _limited(http, service)
            if kind == b"application/json":
                return await _json(body, roots)
            if kind == b"multipart/form-data":
                return await _form(body, options.get(b"boundary", b""), upload)
            return await _raw(http, body, upload)
    except TimeoutError as error:
        raise ServeError(
            "the body took too long",
            status=408,
            received=f"an incomplete body after {limits.upload_seconds:g} s",
            expected="the whole body within this time",
            fix="Send it over a faster connection, or let the operator raise --upload-timeout.",
        ) from error


async def drain(http: Request) -> None:
    """Read a part of a body that was refused; a client that is still sending then receives the answer."""
    size = 0
    try:
        async with asyncio.timeout(_DRAIN_SECONDS):
            async for chunk in http.stream():
                size += len(chunk)
                if size > _DRAIN_BYTES:
                    return
    except (TimeoutError, ClientDisconnect, RuntimeError):  # RuntimeError: it was read to its end before
        return


async def _limited(http: Request, service: JobService) -> AsyncIterator[bytes]:
    size = 0
    async for chunk in _steady(http, service.limits.idle_seconds):
        size += len(chunk)
        if size > service.limits.upload_bytes:
            raise _too_large(size, service.limits.upload_bytes)
        service.metrics.received(len(chunk))
        yield chunk


async def _steady(http: Request, seconds: float) -> AsyncIterator[bytes]:
    """Yield the pieces of a body; a client that sends none for some time does not occupy its slot longer."""
    stream = http.stream()
    while True:
        try:
            async with asyncio.timeout(seconds):
                chunk = await anext(stream, None)
        except TimeoutError as error:
            raise ServeError(
                "the body is incomplete",
                status=408,
                received=f"nothing for {seconds:g} s",
                expected="the rest of the body",
                fix="Send it again.",
            ) from error
        if chunk is None:
            return
        yield chunk


def _too_large(size: int, limit: int) -> ServeError:
    return ServeError(
        "the body is too large",
        status=413,
        received=f"at least {bytes_text(size)}",
        expected=f"at most {bytes_text(limit)}",
        fix="Compress the image, or let the operator raise --max-upload.",
    )


async def _json(body: AsyncIterator[bytes], roots: Sequence[Path]) -> Submission:
    data = bytearray()
    async for chunk in body:
        data += chunk
        if len(data) > _MOST_JSON:
            raise _too_large(len(data), _MOST_JSON)
    try:
        values = msgspec.json.decode(bytes(data), type=dict)
        path = values.pop("path")
        if not isinstance(path, str):
            raise TypeError("path is not a string")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, KeyError, TypeError) as error:
        raise ServeError(
            "the body is not a JSON object with a path",
            status=422,
            received=" ".join(str(error).split())[:200],
            expected='{"path": "STUDY", ...}',
            fix="Send an image as the body, or a JSON object.",
        ) from error
    request = request_of(values)
    source = await to_thread.run_sync(below_roots, path, roots)
    digest = hashlib.sha256(str(source).encode() + msgspec.json.encode(request)).hexdigest()
    return Submission(request=request, source=str(source), digest=digest)


async def _raw(http: Request, body: AsyncIterator[bytes], upload: Upload) -> Submission:
    request = request_of_fields(http.query_params.multi_items())
    digest = hashlib.sha256(msgspec.json.encode(request))
    path = upload.input / "upload"
    with path.open("wb") as handle:
        file = ReceivedFile(path=path, handle=handle)
        async for chunk in body:
            digest.update(chunk)
            await file.write(chunk)
        await file.flush()
    source = await to_thread.run_sync(partial(placed, upload, [file]))
    return Submission(request=request, source=source, digest=digest.hexdigest())


async def _form(body: AsyncIterator[bytes], boundary: bytes, upload: Upload) -> Submission:
    """Receive a form: files named image (several for DICOM), roi and truth, and options as fields."""
    digest = hashlib.sha256()
    fields: list[tuple[str, str]] = []
    files: dict[str, list[ReceivedFile]] = {"image": [], "roi": [], "truth": []}
    size = 0
    current: ReceivedFile | None = None
    text = bytearray()

    async def finish(part: Part) -> None:
        nonlocal current, text
        if current is not None:
            await current.flush()
            current.handle.close()
        else:
            fields.append((part.name, text.decode("utf-8", errors="replace")))
        current, text = None, bytearray()

    try:
        async for part, data in FormReader(boundary).read(body):
            if part.started:
                current = _new_part(part, files, upload)
            digest.update(data)
            if current is not None:
                await current.write(data)
            else:
                text += data
                size += len(data) + len(part.name) * part.started
                if size > _MOST_FIELDS:
                    raise _too_large(size, _MOST_FIELDS)
            if part.ended:
                digest.update(b"\0" + part.name.encode())
                await finish(part)
    finally:
        for found in files.values():
            for file in found:
                file.handle.close()
    request = request_of_fields(fields)
    if not files["image"]:
        raise ServeError(
            "the form has no image", status=422, expected="a file with the name 'image'",
            fix="curl -F image=@ct.nii.gz",
        )  # fmt: skip
    source = await to_thread.run_sync(partial(placed, upload, files["image"]))
    extra = {}
    for name in ("roi", "truth"):
        if files[name]:
            extra[name] = await to_thread.run_sync(partial(placed, upload, files[name], name))
    return Submission(request=request, source=source, digest=digest.hexdigest(), **extra)


def _new_part(part: Part, files: dict[str, list[ReceivedFile]], upload: Upload) -> ReceivedFile | None:
    """Open the file of a part; None for an option."""
    if not part.is_file:
        return None
    if part.name not in files or (part.name != "image" and files[part.name]):
        raise ServeError(
            "the form has an unexpected file",
            status=422,
            received=repr(part.name[:40]),
            expected="files named image, at most one roi and at most one truth",
        )
    path = upload.input / f"upload-{part.name}-{len(files[part.name]):06d}"
    file = ReceivedFile(path=path, handle=path.open("wb"))
    files[part.name].append(file)
    return file
