"""Open the requested engine of a bundle, or the first of its fallbacks that opens."""

from __future__ import annotations

from collections.abc import Callable

from gcis_runtime.bundles.bundle import Bundle
from gcis_runtime.engines.device_memory import free_device_memory
from gcis_runtime.engines.memory_fallback import OUT_OF_MEMORY, MemoryFallback
from gcis_runtime.engines.options import EngineOptions
from gcis_runtime.engines.session import Session
from gcis_runtime.engines.usable import reason_of
from gcis_runtime.errors import EngineError, UnusableEngineError

Opener = Callable[[Bundle, EngineOptions], Session]
"""Opens a session, as `open_session` does."""


def open_first(bundle: Bundle, fallback: MemoryFallback, opener: Opener) -> tuple[Session, int | None]:
    """Open the current options of `fallback`, or the first later ones that open.

    Returns:
        The session, and the free device memory in bytes before it was opened; None on the CPU.
    """
    while True:
        free = free_device_memory(fallback.current.device)
        try:
            session = opener(bundle, fallback.current)
        except OUT_OF_MEMORY as error:
            if not fallback.can_step:
                raise fallback.exhausted(reason_of(error)) from error
            fallback.step(reason_of(error))
        except UnusableEngineError as error:
            if fallback.has_other_engine:
                fallback.replace_engine(reason_of(error))
            elif fallback.steps:
                raise fallback.exhausted(reason_of(error)) from error
            else:
                raise
        except EngineError as error:
            if not fallback.steps:
                raise  # the requested engine cannot be opened, and memory is not the reason
            if not fallback.can_step:
                raise fallback.exhausted(reason_of(error)) from error
            fallback.skip(reason_of(error))
        else:
            fallback.opened(session)
            return session, free
