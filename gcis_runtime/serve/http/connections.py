"""Close connections that wait without end, for a request or for a client that does not read.

uvicorn limits only the time between two requests of a connection. Silent connections would otherwise occupy
all file descriptors of the process, and jobs that run could open no file.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

_LOG = logging.getLogger(__name__)
_CHECKS = 10
"""Number of checks within the shorter of both times."""


class WatchedProtocol(H11Protocol):
    """An HTTP connection with limits; uvicorn creates one object per connection from a class.

    Attributes:
        head_seconds: Longest time from the start of a connection, or the end of an answer, to the end of the
            headers of the next request.
        stall_seconds: Longest time in which a client reads nothing of an answer.
        most: Number of connections at the same time; further ones are closed at once.
    """

    head_seconds = 20.0
    stall_seconds = 60.0
    most = 256

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to watch a connection."""
        super().connection_made(transport)
        self._waiting_since: float | None = None
        self._read_at, self._unsent = self.loop.time(), 0
        if len(self.connections) > self.most:
            if len(self.connections) == self.most + 1:
                _LOG.warning("more than %d connections: new ones are closed", self.most)
            transport.abort()
            return
        self._check()

    def resume_writing(self) -> None:
        """Record that the client reads."""
        self._read_at = self.loop.time()
        super().resume_writing()

    def _check(self) -> None:
        """Close the connection if a time is over, and check again later."""
        now, transport = self.loop.time(), self.transport
        if self not in self.connections and not transport.get_write_buffer_size():
            return
        cycle: Any = self.cycle
        if cycle is not None and not cycle.response_complete:
            self._waiting_since = None
        elif self._waiting_since is None:
            self._waiting_since = now
        unsent = transport.get_write_buffer_size()
        if unsent != self._unsent or not unsent:
            self._read_at, self._unsent = now, unsent
        no_request = self._waiting_since is not None and now - self._waiting_since > self.head_seconds
        if (no_request and not unsent) or now - self._read_at > self.stall_seconds:
            transport.abort()
            return
        self.loop.call_later(min(self.head_seconds, self.stall_seconds) / _CHECKS, self._check)
