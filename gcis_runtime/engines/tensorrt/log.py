"""TensorRT's log: kept for error messages, and read for what an engine consists of."""

from __future__ import annotations

from typing import Any

_LAYERS = ("Layers:", "Engine Layer Information:")
_NOISE = ("Thread context has not been set",)
_MEMORY = ("out of memory", "outofmemory", "insufficient memory", "bad_alloc", "mem_alloc_failed")


def make_log(module: Any) -> Any:
    """Make a logger for one of the modules.

    Returns:
        A `module.ILogger` with `errors` and `warnings` (lists of text), and `layers`: what the builder says
        of the engine that it made, empty where it says nothing.
    """

    class Log(module.ILogger):  # type: ignore[misc]
        """Keeps errors, warnings and the description of the engine; verbose lines are thousands."""

        def __init__(self) -> None:
            module.ILogger.__init__(self)
            self.errors: list[str] = []
            self.warnings: list[str] = []
            self.layers = ""

        def log(self, severity: Any, message: str) -> None:
            """Called by TensorRT, from any thread; must not raise."""
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
    """Return the last error in one short line."""
    text = log.errors[-1] if log.errors else default
    return " ".join(str(text).split())[:300]


def out_of_memory(log: Any) -> bool:
    """Tell whether the errors speak of memory."""
    return any(part in error.lower() for error in log.errors for part in _MEMORY)
