"""Limit how much a peer may send before what it sent is processed.

pynetdicom reads as many bytes into memory as a peer announces, also before it accepts the association.
"""

from __future__ import annotations

import socket
import threading
from typing import Any


class BoundedSocket:
    """A connected socket that ends the connection once more than `limit` bytes wait to be processed.

    Args:
        connection: The socket.
        limit: Number of bytes; `allow` replaces it.
    """

    def __init__(self, connection: socket.socket, limit: int) -> None:
        self._connection, self._limit = connection, limit
        self._waiting = 0
        self._lock = threading.Lock()
        self.exceeded = False

    def allow(self, limit: int) -> None:
        """Replace the limit and count from 0, since what was received is processed."""
        with self._lock:
            self._limit, self._waiting = limit, 0

    def recv(self, count: int) -> bytes:
        """Return received bytes; none, as at the end of a connection, once the limit is exceeded."""
        with self._lock:
            if self._waiting > self._limit:
                self.exceeded = True
                return b""
        data = self._connection.recv(count)
        with self._lock:
            self._waiting += len(data)
        return data

    def fileno(self) -> int:
        """Return the file descriptor, for `select`."""
        return self._connection.fileno()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)
