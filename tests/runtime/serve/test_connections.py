"""Test that connections end whose clients neither ask nor read."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import uvicorn

from gcis_runtime.serve.http.connections import WatchedProtocol

HEAD = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n"
PATIENCE = 60.0
MOST = 6


class Quick(WatchedProtocol):
    """The protocol with short times."""

    head_seconds = 1.0
    stall_seconds = 1.0
    most = MOST


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Answer after the whole body; `/large` has an answer that no buffer of the system holds."""
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    for _ in range(1000 if scope["path"] == "/large" else 1):
        await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
    await send({"type": "http.response.body"})


@pytest.fixture
def connect() -> Iterator[Callable[[bytes], socket.socket]]:
    """Return a function that connects and sends."""
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(application, http=Quick, ws="none", lifespan="off", log_config=None)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    made: list[socket.socket] = []

    def connected(data: bytes) -> socket.socket:
        made.append(socket.create_connection(listening.getsockname(), timeout=PATIENCE))
        made[-1].sendall(data)
        return made[-1]

    yield connected
    for found in made:
        found.close()
    server.should_exit = True
    thread.join(PATIENCE)
    listening.close()
    assert not thread.is_alive()


def received(connection: socket.socket) -> int:
    """Return the number of bytes up to the end of a connection."""
    size = 0
    try:
        while data := connection.recv(1 << 16):
            size += len(data)
    except ConnectionResetError:
        pass
    return size


@pytest.mark.parametrize("data", [b"", b"GET", HEAD, HEAD + b"X: " + 1000 * b"x"])
def test_a_request_that_does_not_arrive_ends_its_connection(connect: Any, data: bytes) -> None:
    assert received(connect(data)) == 0


def test_headers_that_arrive_byte_by_byte_do_not_prolong_the_time(connect: Any) -> None:
    connection = connect(HEAD)
    connection.settimeout(0.2)
    for _ in range(300):
        try:
            connection.sendall(b"X")
            if not connection.recv(1):
                return
        except TimeoutError:
            continue
        except OSError:
            return
    raise AssertionError("the connection stays open")


def test_a_client_that_does_not_read_is_disconnected(connect: Any) -> None:
    connection = connect(HEAD.replace(b"/health", b"/large") + b"\r\n")
    quick = connect(HEAD.replace(b"/health", b"/large") + b"Connection: close\r\n\r\n")
    assert received(quick) > 1000 * 65536, "who reads receives the whole answer"
    threading.Event().wait(5)  # it reads nothing for longer than is allowed
    assert received(connection) < 1000 * 65536


def test_a_long_answer_and_a_long_request_are_not_ended(connect: Any) -> None:
    connection = connect(HEAD.replace(b"GET", b"POST") + b"Content-Length: 4\r\nConnection: close\r\n\r\n")
    for _ in range(4):
        threading.Event().wait(0.7)
        connection.sendall(b"x")
    assert received(connection) > 65536


def test_the_number_of_connections_is_limited(connect: Any) -> None:
    held = [connect(HEAD.replace(b"GET", b"POST") + b"Content-Length: 1\r\n\r\n") for _ in range(MOST)]
    threading.Event().wait(0.5)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        assert received(connect(HEAD + b"Connection: close\r\n\r\n")) == 0
    for connection in held:
        connection.sendall(b"x")
        assert connection.recv(12) == b"HTTP/1.1 200"
