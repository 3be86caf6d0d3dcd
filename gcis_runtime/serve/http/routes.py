"""Answer the requests of the API."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial, wraps
from pathlib import Path
from typing import Any

import msgspec
from anyio import to_thread
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, Response, StreamingResponse
from starlette.routing import Route

from gcis_runtime.serve.http.answers import PRIVATE, json_response, problem_response, stored_problem_response
from gcis_runtime.serve.http.openapi import document
from gcis_runtime.serve.http.uploads import Submission, UploadSlots, drain, receive
from gcis_runtime.serve.job import ENDED, JobRecord
from gcis_runtime.serve.problems import ServeError
from gcis_runtime.serve.results import REPORT, media_type
from gcis_runtime.serve.service import JobService, Upload
from gcis_runtime.serve.views import bundle_view, bundle_views

_LOG = logging.getLogger(__name__)
_POLL = 0.1
_HEARTBEAT = 15.0
"""Seconds without an event after which a comment keeps the connection open."""

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def answering(handler: Handler) -> Handler:
    """Turn exceptions of a handler into problem details; read the rest of the body of a refused request."""

    @wraps(handler)
    async def answered(request: Request) -> Response:
        try:
            return await handler(request)
        except ClientDisconnect:
            return Response(status_code=499)  # nobody receives it
        except Exception as error:
            response = problem_response(error, instance=request.url.path)
            if response.status_code >= 500 and not isinstance(error, ServeError):
                _LOG.error("a request failed: %s", type(error).__name__, exc_info=error)
            await drain(request)
            return response

    return answered


class Api:
    """The handlers of the API.

    Args:
        service: The service.
        roots: Folders below which requests may name paths.
    """

    def __init__(self, service: JobService, roots: Sequence[Path]) -> None:
        self._service, self._roots = service, roots
        self._slots = UploadSlots(service)

    def routes(self) -> list[Route]:
        """Return the routes of the API."""
        table: tuple[tuple[str, str, Handler], ...] = (
            ("GET", "/health", self.health),
            ("GET", "/ready", self.ready),
            ("GET", "/metrics", self.metrics),
            ("GET", "/openapi.json", self.openapi),
            ("GET", "/v1/bundles", self.bundles),
            ("POST", "/v1/segment", self.segment),
            ("POST", "/v1/jobs", self.submit),
            ("GET", "/v1/jobs", self.jobs),
            ("GET", "/v1/jobs/{job}", self.job),
            ("DELETE", "/v1/jobs/{job}", self.delete),
            ("GET", "/v1/jobs/{job}/events", self.events),
            ("GET", "/v1/jobs/{job}/{name:path}", self.result),
        )
        return [Route(path, answering(handler), methods=[method]) for method, path, handler in table]

    async def health(self, _request: Request) -> Response:
        """Answer that the process lives."""
        return json_response({"status": "live"})

    async def ready(self, _request: Request) -> Response:
        """Answer whether jobs would be computed now."""
        if not self._service.ready:
            raise ServeError("an engine is not open, or the service stops", status=503, retry_after=5)
        return json_response({"status": "ready"})

    async def metrics(self, _request: Request) -> Response:
        """Return the counters."""
        return Response(self._service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    async def openapi(self, _request: Request) -> Response:
        """Return the OpenAPI document."""
        return json_response(document())

    async def bundles(self, request: Request) -> Response:
        """Return the bundles with their engines; with `only`, the one that a job would take."""
        engines, query = self._service.engines, request.query_params
        if query.get("only") != "true":
            return json_response({"bundles": bundle_views(engines)})
        prompts = query.getlist("prompt")
        bundle = engines.choose(query.get("bundle"), prompts)
        return json_response({"bundles": [bundle_view(engines, bundle, prompts)]})

    async def submit(self, request: Request) -> Response:
        """Accept a job."""
        record = await self._submitted(request)
        path = f"/v1/jobs/{record.id}"
        view = await to_thread.run_sync(self._service.view, record.id)
        return json_response(view, status=202, headers={"Location": path})

    async def segment(self, request: Request) -> Response:
        """Accept a job, wait for it, and return its labels, or its report with `Accept: application/json`."""
        record = await self._submitted(request)
        with suppress(ClientDisconnect):
            ended = await self._followed(request, record.id)
            if ended is not None:
                return await self._outcome(request, ended)
        self._service.cancel(record.id)
        _LOG.info("job %s: its client went away", record.id)
        raise ClientDisconnect

    async def jobs(self, _request: Request) -> Response:
        """List the jobs."""
        found = [
            {"id": r.id, "state": r.state, "bundle": r.bundle, "created": r.created, "updated": r.updated}
            for r in self._service.jobs()
        ]
        return json_response({"jobs": found})

    async def job(self, request: Request) -> Response:
        """Return a job."""
        return json_response(await to_thread.run_sync(self._service.view, request.path_params["job"]))

    async def delete(self, request: Request) -> Response:
        """Cancel a job, or remove it if it has ended."""
        job = request.path_params["job"]
        if self._service.record(job).state in ENDED:
            await to_thread.run_sync(self._service.remove, job)
            return Response(status_code=204)
        await to_thread.run_sync(self._service.cancel, job)
        return json_response(await to_thread.run_sync(self._service.view, job), status=202)

    async def events(self, request: Request) -> Response:
        """Send the job as a server-sent event after each change, until it has ended."""
        job = request.path_params["job"]
        self._service.version(job)
        return StreamingResponse(
            self._events(job), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )

    async def result(self, request: Request) -> Response:
        """Return a result file."""
        job, name = request.path_params["job"], request.path_params["name"]
        record = self._service.record(job)
        if name == REPORT and record.state == "done":
            view = await to_thread.run_sync(self._service.view, job)
            return json_response(view.report)
        files = await to_thread.run_sync(self._service.files, job)
        if name in files:
            return _file(files[name], name)
        if record.error is not None:
            return stored_problem_response(msgspec.structs.replace(record.error, instance=f"/v1/jobs/{job}"))
        if record.state != "done":
            raise ServeError(
                "the job has no results" if record.ended else "the job has not ended",
                status=404 if record.ended else 409,
                received=f"state {record.state}",
                retry_after=None if record.ended else 1,
            )
        raise ServeError(
            "the job has no such result",
            status=404,
            received=repr(name[:80]),
            expected=" or ".join(sorted(files)),
            fix="Request it with the job: format=nii.gz, preview=true and others.",
        )

    async def _submitted(self, request: Request) -> JobRecord:
        service = self._service
        if service.stopping:
            raise ServeError("the service is stopping", status=503, retry_after=30)
        key = request.headers.get("idempotency-key")
        hashed = None if key is None else hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()
        async with self._slots.taken():
            with service.incoming() as upload:
                found = await receive(request, service, upload, self._roots)
                return await to_thread.run_sync(partial(self._accepted, upload, found, hashed))

    def _accepted(self, upload: Upload, found: Submission, key: str | None) -> JobRecord:
        service = self._service
        return service.submit(
            upload, found.request, source=found.source, roi=found.roi, truth=found.truth,
            key=key, digest=found.digest,
        )  # fmt: skip

    async def _followed(self, request: Request, job: str) -> JobRecord | None:
        """Wait for a job; None if its client went away."""
        while not (record := self._service.record(job)).ended:
            if await request.is_disconnected():
                return None
            if self._service.stopping:
                raise ServeError(
                    "the service is stopping", status=503, retry_after=30, received=f"job {job}",
                    fix=f"GET /v1/jobs/{job} after the next start.",
                )  # fmt: skip
            await asyncio.sleep(_POLL)
        return record

    async def _outcome(self, request: Request, record: JobRecord) -> Response:
        path = f"/v1/jobs/{record.id}"
        if record.error is not None:
            return stored_problem_response(msgspec.structs.replace(record.error, instance=path))
        if record.state != "done":
            raise ServeError("the job was cancelled", status=409)
        view = await to_thread.run_sync(self._service.view, record.id)
        files = await to_thread.run_sync(self._service.files, record.id)
        labels = next((n for n in view.links if n.startswith(("label.", "seg.", "rtstruct."))), None)
        if "application/json" in request.headers.get("accept", "") or labels is None:
            return json_response(view, headers={"Location": path})
        response = _file(files[labels], labels)
        response.headers["Location"] = path
        return response

    async def _events(self, job: str) -> AsyncIterator[bytes]:
        seen, silent = -1, 0.0
        while True:
            try:
                version = self._service.version(job)
                if version != seen:
                    seen, silent = version, 0.0
                    view = await to_thread.run_sync(self._service.view, job)
                    yield b"event: job\ndata: " + msgspec.json.encode(view) + b"\n\n"
                    if view.state in ENDED:
                        return
            except ServeError:  # it was removed
                return
            if self._service.stopping:
                return
            await asyncio.sleep(_POLL)
            silent += _POLL
            if silent >= _HEARTBEAT:
                silent = 0.0
                yield b": no change\n\n"


def _file(path: Path, name: str) -> Response:
    return FileResponse(path, media_type=media_type(name), filename=name.replace("/", "_"), headers=PRIVATE)
