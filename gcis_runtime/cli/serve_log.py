"""Print the log of `gcis-serve` on standard error; it contains no name of a file or a patient."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from types import TracebackType

from gcis_runtime.system.console import echo
from gcis_runtime.text import printable


class _Formatter(logging.Formatter):
    """Prints exceptions with the lines of the program and without their texts, which may quote a file."""

    def formatException(  # noqa: N802 (a name of logging)
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None],
    ) -> str:
        """Return the traceback of an exception and of those that caused it, with their classes."""
        lines: list[str] = []
        error = ei[1]
        while error is not None:
            lines[:0] = [*traceback.format_tb(error.__traceback__), f"{type(error).__name__}\n"]
            error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
        return "".join(lines).rstrip()


def log_to_stderr(program: str) -> Callable[[str], None]:
    """Print messages of the service from now on.

    Returns:
        A function that prints a line.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_Formatter(f"{program}: %(asctime)s %(message)s"))
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # it quotes forms
    for name in ("gcis_runtime.serve", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False
        logger.setLevel(logging.INFO if name.startswith("gcis") else logging.WARNING)
    return lambda text: echo(f"{program}: {printable(text)}", err=True)
