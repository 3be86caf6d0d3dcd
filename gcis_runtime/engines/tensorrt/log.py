"""Collect TensorRT's log messages for errors and for the description of an engine's layers."""

from __future__ import annotations

from typing import Any

_LAYERS = ("Layers:", "Engine Layer Information:")
_NOISE = ("Thread context has not been set",)
_MEMORY = ("out of memory", "outofmemory", "insufficient memory", "bad_alloc", "mem_alloc_failed")


def make_log(module: Any) -> Any:
    """Create a logger for a TensorRT module.

    Returns:
        A `module.ILogger` with the lists of messages `errors` and `warnings`, and `layers`, the builder's
        description of the engine (empty if it logs none).
    """

    class Log(module.ILogger):  # type: ignore[misc]
        """Logger that stores errors, warnings and layer descriptions, and drops other verbose messages."""

        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warnings: list[str] = []
            self.layers = ""

        def log(self, severity: Any, message: str) -> None:
            """Store a message. TensorRT calls this from any thread; it must not raise an error."""
            kind = str(getattr(severity, "name", severity)).rpartition(".")[2]
            if kind == "VERBOSE":
                if message.lstrip().startswith(_LAYERS):
                    self.layers += message + "\n"
            elif kind == "WARNING":
                self.warnings.append(message)
            elif kind in ("ERROR", "INTERNAL_ERROR") and not message.startswith(_NOISE):
                self.errors.append(message)

    return Log()


def last_error(log: Any, *, default: str) -> str:
    """Return the last error message as one line of at most 300 characters, or `default` without errors."""
    text = log.errors[-1] if log.errors else default
    return " ".join(str(text).split())[:300]


def out_of_memory(log: Any) -> bool:
    """Return whether an error message reports exhausted memory."""
    return any(part in error.lower() for error in log.errors for part in _MEMORY)
