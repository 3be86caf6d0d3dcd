"""Lock open files with the operating system, which releases the lock when the process ends."""

from __future__ import annotations

from gcis_runtime.platforms import try_lock

__all__ = ["try_lock"]
