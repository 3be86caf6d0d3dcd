"""Keep results independent of the rounding direction that another library left in the thread."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

from gcis_runtime.platforms import MATH_LIBRARY

_TO_NEAREST = 0
"""`FE_TONEAREST` of glibc, musl, Apple's and Microsoft's C libraries on x86-64 and ARM64."""


@contextlib.contextmanager
def nearest_rounding() -> Iterator[None]:
    """Round to nearest in this thread, and restore the direction at the end; usable as a decorator.

    Threads that start meanwhile take over this direction.
    """
    if _rounds_to_nearest(1.0, 2.0**-55):
        yield
        return
    library = ctypes.CDLL(MATH_LIBRARY)
    before = library.fegetround()
    library.fesetround(_TO_NEAREST)
    try:
        yield
    finally:
        library.fesetround(before)


def _rounds_to_nearest(one: float, tiny: float) -> bool:
    """Return whether sums of `one` and a number far below its last bit are `one`."""
    return one + tiny == one == one - tiny
