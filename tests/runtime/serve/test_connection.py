"""Test the client's requests: repetition while a service is busy, and errors without a traceback."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from gcis_runtime.errors import GcisError, ImageError, OutputError
from gcis_runtime.serve.client.connection import Connection, LostConnectionError, error_of

BUSY = {
    "error": "ServeError",
    "detail": "the queue is full",
    "message": "the queue is full",
    "retry_after": 7,
}


class _Answering(BaseHTTPRequestHandler):
    """Sends the next prepared answer of its server."""

    def _answer(self) -> None:
        server: Any = self.server
        length = int(self.headers.get("Content-Length") or 0)
        server.seen.append((self.command, self.path, dict(self.headers), self.rfile.read(length)))
        status, body = server.answers.pop(0)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_DELETE = _answer  # noqa: N815 (names of the base class)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Print nothing."""


@pytest.fixture
def server() -> Iterator[Any]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answering) as found:
        found.answers, found.seen = [], []  # type: ignore[attr-defined]
        thread = threading.Thread(target=found.serve_forever, args=(0.01,))
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def connection(server: Any, waits: list[float], path: str = "") -> Connection:
    return Connection(f"http://127.0.0.1:{server.server_port}{path}", b"secret", sleep=waits.append)


def test_a_busy_service_is_asked_again_with_the_whole_body(server: Any) -> None:
    busy = json.dumps(BUSY).encode()
    server.answers += [(429, busy), (503, busy), (202, b'{"id": 1}')]
    waits: list[float] = []
    found = connection(server, waits, "/gcis/").post(
        "/v1/jobs", lambda: iter([b"ab", b"c"]), {"Content-Length": "3", "Idempotency-Key": "k"}
    )
    assert found == {"id": 1} and waits == [7, 7]
    assert [(method, path, body) for method, path, _, body in server.seen] == [
        ("POST", "/gcis/v1/jobs", b"abc")
    ] * 3
    assert {headers["Authorization"] for _, _, headers, _ in server.seen} == {"Bearer secret"}


def test_an_error_is_the_error_of_the_service(server: Any) -> None:
    problem = {"error": "ImageError", "detail": "x", "message": "image.nii.gz is no CT", "received": "a cat"}
    server.answers.append((422, json.dumps(problem).encode()))
    with pytest.raises(ImageError, match=r"image\.nii\.gz is no CT; received a cat"):
        connection(server, []).get("/v1/jobs/1")
    local = error_of(problem, {"image.nii.gz": "/data/ct.nii.gz"})
    assert str(local) == "/data/ct.nii.gz is no CT; received a cat"
    for name in ("ServeError", "SystemExit", "annotations", "GcisError"):
        assert type(error_of({"error": name, "detail": "x"})) is GcisError


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"3", b'{"error": 1}'])
def test_another_server_is_recognised(server: Any, body: bytes) -> None:
    server.answers.append((404, body))
    with pytest.raises(GcisError, match="does not answer as gcis-serve does"):
        connection(server, []).get("/v1/bundles")


def test_a_wrong_address_is_an_error_at_once_and_a_restart_is_awaited(server: Any) -> None:
    with pytest.raises(LostConnectionError, match="does not answer"):
        Connection("http://127.0.0.1:1", None, sleep=lambda _: pytest.fail("waits")).get("/")
    waits: list[float] = []
    found = connection(server, waits)
    server.answers += [(200, b"{}"), (200, b"{}")]
    assert found.get("/") == {}
    answer, _Answering.do_GET = _Answering.do_GET, lambda self: self.connection.close()
    try:
        found._sleep = lambda seconds: setattr(_Answering, "do_GET", answer)  # the service is back
        assert found.get("/") == {}
    finally:
        _Answering.do_GET = answer


@pytest.mark.parametrize(
    "url", ["", "host:80", "ftp://host", "http://", "http://me@host", "http://h/?x=1", "http://h:x"]
)
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(OutputError, match="not the URL of a service"):
        Connection(url, None)
