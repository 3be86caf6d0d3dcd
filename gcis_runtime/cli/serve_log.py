"""Print the log of `gcis-serve` on standard error; it contains no name of a file or a patient."""

from __future__ import annotations

import logging
from collections.abc import Callable

from gcis_runtime.system.console import echo
from gcis_runtime.text import printable


def log_to_stderr(program: str) -> Callable[[str], None]:
    """Print messages of the service from now on.

    Returns:
        A function that prints a line.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"{program}: %(asctime)s %(message)s"))
    for name in ("gcis_runtime.serve", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers[:] = [handler]
        logger.propagate = False
        logger.setLevel(logging.INFO if name.startswith("gcis") else logging.WARNING)
    return lambda text: echo(f"{program}: {printable(text)}", err=True)
