"""Describe errors for clients: the parts of a `GcisError` as problem details (RFC 9457)."""

from __future__ import annotations

from http import HTTPStatus

import msgspec

from gcis_runtime.errors import (
    BundleError,
    DeviceMemoryError,
    EngineError,
    GcisError,
    MemoryLimitError,
    UnwritableError,
)
from gcis_runtime.text import error_text, printable

MEDIA_TYPE = "application/problem+json"


class ServeError(GcisError):
    """A request that the service refuses.

    Args:
        message: See `GcisError`.
        status: HTTP status.
        retry_after: Seconds after which the request may succeed; None if repeating it is pointless.
        kind: Class of the original error; None for this class.
        received: See `GcisError`.
        expected: See `GcisError`.
        fix: See `GcisError`.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        retry_after: int | None = None,
        kind: str | None = None,
        received: str | None = None,
        expected: str | None = None,
        fix: str | None = None,
    ) -> None:
        super().__init__(message, received=received, expected=expected, fix=fix)
        self.status, self.retry_after, self.kind = status, retry_after, kind or type(self).__name__


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Problem details of RFC 9457.

    Attributes:
        title: Name of the HTTP status.
        status: HTTP status.
        detail: The error in one line, as `gcis-run` prints it.
        error: Class of the error.
        message: The problem in one sentence.
        received: The received value.
        expected: The expected value.
        fix: An instruction that corrects the error.
        instance: Path of the job.
        retry_after: Seconds after which the request may succeed.
    """

    title: str
    status: int
    detail: str
    error: str
    message: str = ""
    received: str | None = None
    expected: str | None = None
    fix: str | None = None
    instance: str | None = None
    retry_after: int | None = None


def status_of(error: BaseException) -> int:
    """Return the HTTP status of an error."""
    if isinstance(error, ServeError):
        return error.status
    table: tuple[tuple[type[BaseException], int], ...] = (
        (MemoryLimitError, 413),
        (DeviceMemoryError, 503),
        (EngineError, 500),
        (BundleError, 404),
        (UnwritableError, 507),
        (GcisError, 422),
        (MemoryError, 503),
        (OSError, 507),
    )
    return next((status for kind, status in table if isinstance(error, kind)), 500)


def problem_of(error: BaseException, *, private: tuple[tuple[str, str], ...] = ()) -> Problem:
    """Return the problem details of an error.

    Args:
        error: The error.
        private: Texts that are replaced, such as the folder of a job, and their replacements.
    """

    def clean(text: str | None) -> str | None:
        if text is None:
            return None
        for secret, shown in private:
            text = text.replace(secret, shown)
        return printable(text)

    status = status_of(error)
    known = isinstance(error, GcisError | MemoryError)
    detail = error_text(error) if known else f"{type(error).__name__}: a defect of this program"
    if isinstance(error, OSError):  # its text may name a path of the server
        detail = error.strerror or type(error).__name__
    parts = error if isinstance(error, GcisError) else None
    return Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=clean(detail) or "",
        error=error.kind if isinstance(error, ServeError) else type(error).__name__,
        message=clean(parts.message if parts is not None else detail) or "",
        received=clean(parts.received) if parts is not None else None,
        expected=clean(parts.expected) if parts is not None else None,
        fix=clean(parts.fix) if parts is not None else None,
        retry_after=error.retry_after if isinstance(error, ServeError) else None,
    )


def refusal_of(
    error: GcisError, *, private: tuple[tuple[str, str], ...], status: int | None = None,
    retry_after: int | None = None,
) -> ServeError:  # fmt: skip
    """Return an error as the refusal of a request, without private texts; see `problem_of`."""
    found = problem_of(error, private=private)
    return ServeError(
        found.message,
        status=status or found.status,
        retry_after=retry_after,
        kind=found.error,
        received=found.received,
        expected=found.expected,
        fix=found.fix,
    )
