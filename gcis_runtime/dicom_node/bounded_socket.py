"""Limit how much peers may send before what they sent is processed.

pynetdicom reads as many bytes into memory as a peer announces, also before it accepts the association.
"""

from __future__ import annotations

import socket
import threading
from typing import Any


class Budget:
    """Number of bytes that wait to be processed on all connections.

    Args:
        limit: Number of bytes above which connections end that have more than their share.
        connections: Number of connections that share the limit.
    """

    def __init__(self, limit: int, *, connections: int) -> None:
        self._limit, self._share = limit, limit // connections
        self._waiting = 0
        self._lock = threading.Lock()

    def add(self, count: int) -> None:
        """Count bytes that were received, or, with a negative number, that were processed."""
        with self._lock:
            self._waiting += count

    def exceeded(self, own: int) -> bool:
        """Return whether a connection with `own` waiting bytes must end, since all together have too many."""
        with self._lock:
            return self._waiting > self._limit and own > self._share


class BoundedSocket:
    """A connected socket that ends the connection once too many bytes wait to be processed.

    Args:
        connection: The socket.
        limit: Number of bytes of this connection; `allow` replaces it.
        budget: Bytes of all connections.
    """

    def __init__(self, connection: socket.socket, limit: int, budget: Budget) -> None:
        self._connection, self._limit, self._budget = connection, limit, budget
        self._waiting = 0
        self._lock = threading.Lock()
        self.exceeded = False

    def allow(self, limit: int) -> None:
        """Replace the limit and count from 0, since what was received is processed."""
        with self._lock:
            self._budget.add(-self._waiting)
            self._limit, self._waiting = limit, 0

    def recv(self, count: int) -> bytes:
        """Return received bytes; none, as at the end of a connection, once a limit is exceeded."""
        with self._lock:
            if self._waiting > self._limit or self._budget.exceeded(self._waiting):
                self.exceeded = True
                return b""
        data = self._connection.recv(count)
        with self._lock:
            self._waiting += len(data)
            self._budget.add(len(data))
        return data

    def fileno(self) -> int:
        """Return the file descriptor, for `select`."""
        return self._connection.fileno()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)
