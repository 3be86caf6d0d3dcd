"""Send requests to an ASGI application in this process."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from tests.support.service_process import Answer


def ask(
    app: Any,
    method: str,
    path: str,
    body: bytes | Iterable[bytes] = b"",
    *,
    headers: dict[str, str] | None = None,
    complete: bool = True,
) -> Answer:
    """Return the answer of an application; a body in pieces has no announced length, or is not completed."""
    pieces = [body] if isinstance(body, bytes) else list(body)
    known = {"host": "127.0.0.1:8470", **(headers or {})}
    if isinstance(body, bytes):
        known.setdefault("content-length", str(len(body)))
    path, _, query = path.partition("?")
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "path": path,
        "raw_path": path.encode(), "query_string": query.encode(), "scheme": "http", "root_path": "",
        "headers": [(k.lower().encode(), v.encode()) for k, v in known.items()],
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8470),
    }  # fmt: skip
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if pieces:
            return {"type": "http.request", "body": pieces.pop(0), "more_body": bool(pieces) or not complete}
        await asyncio.sleep(3600)
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    asyncio.run(app(scope, receive, send))
    start = next(m for m in sent if m["type"] == "http.response.start")
    found = {k.decode().lower(): v.decode() for k, v in start["headers"]}
    return Answer(start["status"], found, b"".join(m.get("body", b"") for m in sent))
