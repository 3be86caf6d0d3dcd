"""Send requests to a service, and turn its problem details into the errors that `gcis-run` prints."""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit

from gcis_runtime import errors
from gcis_runtime.errors import GcisError, OutputError

_TIMEOUT = 600.0
_PATIENCE = 60.0
"""Seconds for which a service that does not answer is tried again: it may be starting anew."""
_BUSY_PATIENCE = 6 * 3600.0
"""Seconds for which a service with a full queue is tried again."""
_MOST_JSON = 64 << 20
_BLOCK = 1 << 20


class LostConnectionError(GcisError):
    """A service does not answer."""


class Connection:
    """Requests to one service.

    Args:
        url: URL of the service, such as `http://127.0.0.1:8470`; it may have a path, behind a proxy.
        token: Token; None for none.
        sleep: Waits for seconds.

    Raises:
        OutputError: The URL is not one of a service.
    """

    def __init__(self, url: str, token: bytes | None, *, sleep: Callable[[float], None] = time.sleep) -> None:
        parts = urlsplit(url)
        if not _valid(parts):
            raise OutputError(
                "not the URL of a service", received=repr(url), expected="http://HOST:PORT or https://HOST",
            )  # fmt: skip
        self._url, self._token, self._sleep = parts, token, sleep
        self._base = parts.path.rstrip("/")
        self._answered = False

    def get(self, path: str) -> Any:
        """Return the JSON of a resource."""
        return self._repeated(lambda: self._json("GET", path))

    def delete(self, path: str) -> None:
        """Delete a resource; errors are ignored."""
        with contextlib.suppress(GcisError), self._answer("DELETE", path):
            pass

    def post(self, path: str, body: Callable[[], Iterable[bytes]], headers: dict[str, str]) -> Any:
        """Send a body, again if the service is busy or does not answer; return the JSON of the answer.

        Args:
            path: Path of the resource.
            body: Returns the body anew for each attempt.
            headers: Headers, with the length of the body and an idempotency key.
        """
        return self._repeated(lambda: self._json("POST", path, body=body(), headers=headers))

    def download(self, path: str, file: Path) -> None:
        """Write a resource to a file."""

        def attempt() -> None:
            with self._answer("GET", path) as answer, file.open("wb") as handle:
                shutil.copyfileobj(answer, handle, _BLOCK)

        self._repeated(attempt)

    def _json(
        self, method: str, path: str, *, body: Iterable[bytes] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Any:  # fmt: skip
        with self._answer(method, path, body=body, headers=headers) as answer:
            data = answer.read(_MOST_JSON)
        try:
            return json.loads(data)
        except ValueError as error:
            raise self._foreign(f"{data[:40]!r}") from error

    def _repeated(self, attempt: Callable[[], Any]) -> Any:
        """Repeat an attempt while the service is busy or does not answer, for a limited time."""
        begun = time.monotonic()
        while True:
            try:
                return attempt()
            except LostConnectionError:
                # Before the first answer, the address is probably wrong.
                if not self._answered or time.monotonic() - begun > _PATIENCE:
                    raise
                wait = 1.0
            except _BusyError as error:
                if time.monotonic() - begun > _BUSY_PATIENCE:
                    raise error.problem from None
                wait = error.seconds
            self._sleep(wait)

    @contextlib.contextmanager
    def _answer(
        self, method: str, path: str, *, body: Iterable[bytes] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Iterator[http.client.HTTPResponse]:  # fmt: skip
        kind = http.client.HTTPSConnection if self._url.scheme == "https" else http.client.HTTPConnection
        connection = kind(self._url.hostname or "", self._url.port, timeout=_TIMEOUT)
        known = dict(headers or {})
        if self._token is not None:
            known["Authorization"] = f"Bearer {self._token.decode()}"
        try:
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                # The service may refuse a body before its end; its answer says why.
                connection.request(method, self._base + path, body=body, headers=known)
            answer = connection.getresponse()
            self._answered = True
            if answer.status >= 400:
                raise self._error(answer)
            yield answer
        except (OSError, http.client.HTTPException) as error:
            raise LostConnectionError(
                f"the service {self._url.scheme}://{self._url.netloc} does not answer",
                received=str(error) or type(error).__name__,
                expected="gcis-serve at this address",
                fix="Check the address, and that the service runs.",
            ) from error
        finally:
            connection.close()

    def _error(self, answer: http.client.HTTPResponse) -> GcisError:
        """Return the error that an answer describes."""
        data = answer.read(_MOST_JSON)
        try:
            found = json.loads(data)
            error = error_of(found)
        except (ValueError, TypeError, KeyError, AttributeError):
            return self._foreign(f"status {answer.status}")
        seconds = found.get("retry_after")
        if answer.status in (429, 503) and isinstance(seconds, int | float):
            return _BusyError(error, float(seconds))
        return error

    def _foreign(self, received: str) -> GcisError:
        return GcisError(
            f"{self._url.scheme}://{self._url.netloc} does not answer as gcis-serve does",
            received=received,
            expected="a service of the same version of gCIS",
            fix="Check the address.",
        )


class _BusyError(GcisError):
    """The service asks to try again later."""

    def __init__(self, problem: GcisError, seconds: float) -> None:
        super().__init__(str(problem))
        self.problem, self.seconds = problem, seconds


def error_of(problem: dict[str, Any], names: dict[str, str] | None = None) -> GcisError:
    """Return the error that problem details describe.

    Args:
        problem: Problem details.
        names: Names of files in the service, and what they are replaced by.
    """

    def local(text: str | None) -> str | None:
        for name, path in (names or {}).items():
            text = None if text is None else text.replace(name, path)
        return text

    kind = getattr(errors, str(problem["error"]), GcisError)
    if not (isinstance(kind, type) and issubclass(kind, GcisError)):
        kind = GcisError
    return kind(
        local(problem.get("message") or problem["detail"]) or "",
        received=local(problem.get("received")),
        expected=local(problem.get("expected")),
        fix=local(problem.get("fix")),
    )


def _valid(parts: SplitResult) -> bool:
    try:
        known = parts.port is None or parts.port > 0
    except ValueError:
        return False
    plain = not (parts.query or parts.fragment or parts.username)
    return known and plain and parts.scheme in ("http", "https") and bool(parts.hostname)
