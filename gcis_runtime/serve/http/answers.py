"""Build responses: JSON of typed values, and problem details."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec
from starlette.responses import Response

from gcis_runtime.serve.problems import MEDIA_TYPE, problem_of

PRIVATE = MappingProxyType({"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"})
"""Headers that keep answers out of caches and from being read as another type."""


def json_response(value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return a value as JSON."""
    content = msgspec.json.encode(value)
    return Response(content, status_code=status, media_type="application/json", headers=_private(headers))


def problem_response(error: BaseException, *, instance: str | None = None) -> Response:
    """Return an error as problem details."""
    problem = msgspec.structs.replace(problem_of(error), instance=instance)
    return stored_problem_response(problem)


def stored_problem_response(problem: Any) -> Response:
    """Return problem details of a job that has failed."""
    headers = {}
    if problem.retry_after is not None:
        headers["Retry-After"] = str(problem.retry_after)
    if problem.status == 401:
        headers["WWW-Authenticate"] = 'Bearer realm="gcis"'
    return Response(
        msgspec.json.encode(problem),
        status_code=problem.status,
        media_type=MEDIA_TYPE,
        headers=_private(headers),
    )


def _private(headers: Mapping[str, str] | None) -> dict[str, str]:
    """Return headers together with `PRIVATE`."""
    return {**PRIVATE, **(headers or {})}
