"""Compose the application: the API, extra routes, and access control."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from gcis_runtime.serve.http.answers import problem_response
from gcis_runtime.serve.http.guard import Guard
from gcis_runtime.serve.http.routes import Api
from gcis_runtime.serve.problems import ServeError
from gcis_runtime.serve.service import JobService


def make_app(
    service: JobService,
    *,
    token: bytes | None = None,
    roots: Sequence[Path] = (),
    hosts: Sequence[str] | None = (),
    routes: Sequence[BaseRoute] = (),
) -> Starlette:
    """Return the application of a service.

    Args:
        service: The service, which handlers of extra routes find in `request.app.state.service`.
        token: Token that requests for `/v1/` and `/metrics` must send; None for no token.
        roots: Folders below which requests may name paths.
        hosts: See `Guard`.
        routes: Extra routes, such as a page; they precede those of the API. `routes.answering` turns their
            exceptions into problem details.
    """
    app = Starlette(
        routes=[*routes, *Api(service, roots).routes()],
        middleware=[Middleware(Guard, token=token, hosts=hosts, metrics=service.metrics)],
        exception_handlers={HTTPException: _not_found},
    )
    app.state.service = service
    app.router.redirect_slashes = False  # the address would contain the host name that the client sent
    return app


async def _not_found(request: Request, error: Exception) -> Response:
    """Answer unknown paths and methods."""
    status = error.status_code if isinstance(error, HTTPException) else 500
    message = "there is no such resource" if status == 404 else "the resource does not have this method"
    refused = ServeError(message, status=status, expected="see /openapi.json")
    response = problem_response(refused, instance=request.url.path)
    if isinstance(error, HTTPException) and error.headers:
        response.headers.update(error.headers)
    return response
