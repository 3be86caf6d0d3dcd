"""Run a service as a process: open the bundles, listen, and end within a stated time after a signal."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import uvicorn
from starlette.routing import BaseRoute

from gcis_runtime.bundles.bundle import Bundle
from gcis_runtime.engines.options import EngineOptions
from gcis_runtime.errors import OutputError
from gcis_runtime.serve.engines import Engines
from gcis_runtime.serve.http.app import make_app
from gcis_runtime.serve.http.connections import WatchedProtocol
from gcis_runtime.serve.service import JobService
from gcis_runtime.serve.settings import Limits
from gcis_runtime.serve.store import JobStore
from gcis_runtime.system.folder_lock import folder_lock
from gcis_runtime.system.interruption import INTERRUPTED_EXIT
from gcis_runtime.system.unfinished import remove_unfinished

_LOG = logging.getLogger(__name__)
_ANSWERS = 3
"""Seconds for open answers after the jobs were stopped."""


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """Where a service listens, and what it serves.

    Attributes:
        bundles: The verified bundles.
        engine: The engine, for all bundles.
        folder: Folder of the jobs.
        host: Address.
        port: Port; 0 takes a free one.
        token: Token that clients must send; None for no token.
        roots: Folders below which requests may name paths.
        hosts: Host names besides those of this machine that requests may name without a token; None admits
            every name.
        limits: Limits.
        routes: Extra routes.
        on_start: Called with the service before its first job starts; the functions that are returned end
            what was started, and are called in reverse order.
    """

    bundles: Sequence[Bundle]
    engine: EngineOptions
    folder: Path
    host: str = "127.0.0.1"
    port: int = 8470
    token: bytes | None = None
    roots: Sequence[Path] = ()
    hosts: Sequence[str] | None = ()
    limits: Limits = field(default_factory=Limits)
    routes: Sequence[BaseRoute] = ()
    on_start: Sequence[Callable[[JobService], Callable[[], None]]] = ()


def serve(options: ServeOptions, *, on_listen: Callable[[str], None], on_ready: Callable[[], None]) -> None:
    """Serve until the process is interrupted.

    After the first signal, running jobs may finish for `Limits.grace_seconds`; the others are queued again.

    Args:
        options: What to serve.
        on_listen: Called with the URL; from then on jobs are accepted.
        on_ready: Called once every engine is open.

    Raises:
        OutputError: The address or the folder cannot be used.
        EngineError: An engine cannot be opened.
    """
    with contextlib.ExitStack() as stack:
        options.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        stack.enter_context(folder_lock(options.folder))
        engines = Engines(options.bundles, options.engine)
        service = JobService(JobStore(options.folder), engines, options.limits)
        service.recover()
        listening = stack.enter_context(_listening(options.host, options.port))
        app = make_app(
            service, token=options.token, roots=options.roots, hosts=options.hosts, routes=options.routes
        )
        server = uvicorn.Server(
            uvicorn.Config(
                app, http=WatchedProtocol, ws="none", access_log=False, log_config=None, lifespan="off",
                server_header=False,
                timeout_graceful_shutdown=_ANSWERS, timeout_keep_alive=5,
            )
        )  # fmt: skip
        for begin in options.on_start:
            stack.callback(begin(service))
        answering = threading.Thread(
            target=server.run, kwargs={"sockets": [listening]}, name="gcis-http", daemon=True
        )
        answering.start()
        ended = True
        try:
            on_listen(_url(options.host, listening))
            engines.open_all()
            service.start()
            on_ready()
            while answering.is_alive():
                answering.join(1.0)
        except KeyboardInterrupt:
            _LOG.info("stopping")
        finally:
            try:
                ended = service.stop()
                server.should_exit = True
                answering.join(_ANSWERS + 2)
            except KeyboardInterrupt:
                _LOG.warning("ended by a second signal")
                _end_now(INTERRUPTED_EXIT)
            if ended:
                engines.close()
    if not ended:
        _LOG.warning("a library did not return; its job is queued again")
        _end_now(0)


def _end_now(code: int) -> None:
    """End the process without waiting for threads: engines that compute abort the interpreter's shutdown."""
    remove_unfinished()
    logging.shutdown()
    os._exit(code)


@contextlib.contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """Listen on an address.

    Raises:
        OutputError: It cannot be used.
    """
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        found = socket.create_server((host, port), family=family, backlog=128)
    except OSError as error:
        raise OutputError(
            f"cannot listen on {host} port {port}",
            received=error.strerror or str(error),
            expected="an address of this machine and a free port",
            fix="Choose others with --host and --port.",
        ) from error
    with found:
        yield found


def _url(host: str, listening: socket.socket) -> str:
    name = f"[{host}]" if ":" in host else host
    return f"http://{name}:{listening.getsockname()[1]}"
