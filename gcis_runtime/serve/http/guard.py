"""Check who may send requests: a bearer token, and for services without one the host and the origin."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gcis_runtime.serve.http.answers import problem_response
from gcis_runtime.serve.metrics import Metrics
from gcis_runtime.serve.problems import ServeError

_PROTECTED = ("/v1/", "/metrics")
_LOCAL = ("localhost", "127.0.0.1", "::1")

Check = Callable[[Scope], ServeError | None]


class Guard:
    """Middleware that refuses requests without the token, and requests of other web sites.

    A page of any web site can send requests to services on the machine of its reader. Without a token, a
    request must therefore name a known host, which defeats names that resolve to this machine, and a browser
    must send it from a page of the service itself.

    Args:
        app: The application.
        token: The token; None admits everybody.
        hosts: Host names besides those of this machine that requests may name if there is no token; None
            admits every name.
        metrics: Counts the answers.
    """

    def __init__(
        self, app: ASGIApp, *, token: bytes | None, hosts: Sequence[str] | None, metrics: Metrics
    ) -> None:
        self._app, self._token, self._metrics = app, token, metrics
        self._hosts = None if hosts is None else {*_LOCAL, *(host.lower() for host in hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        counted = self._counting(scope, send)
        error = self._refusal(scope)
        if error is None:
            await self._app(scope, receive, counted)
        else:
            await problem_response(error)(scope, receive, counted)

    def _refusal(self, scope: Scope) -> ServeError | None:
        headers = Headers(scope=scope)
        if self._token is not None:
            protected = str(scope["path"]).startswith(_PROTECTED)
            return _no_token() if protected and not self._has_token(headers) else None
        host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
        if self._hosts is not None and host.lower() not in self._hosts:
            return ServeError(
                "the request names a host that is not this service",
                status=421,
                expected=" or ".join(sorted(self._hosts)),
                fix="Use one of these names, or let the operator add --host-name NAME.",
            )
        origin = headers.get("origin")
        foreign = origin is not None and urlsplit(origin).netloc != headers.get("host")
        if foreign or headers.get("sec-fetch-site") in ("cross-site", "same-site"):
            return ServeError(
                "the request comes from a page of another site", status=403,
                expected="a page of this service, or a program",
            )  # fmt: skip
        return None

    def _has_token(self, headers: Headers) -> bool:
        scheme, _, given = headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(given.strip().encode("utf-8", "surrogateescape"), self._token or b"")
        return right and scheme.lower() == "bearer"

    def _counting(self, scope: Scope, send: Send) -> Callable[[Message], Awaitable[None]]:
        async def counting(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.answered(str(scope["method"]), int(message["status"]))
            await send(message)

        return counting


def _no_token() -> ServeError:
    return ServeError(
        "the token is missing or wrong",
        status=401,
        expected="the header Authorization: Bearer TOKEN",
        fix="Send the token of the service; gcis-run reads it from --token-file.",
    )
