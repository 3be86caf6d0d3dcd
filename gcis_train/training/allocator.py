"""Keep freed memory: a training step frees and asks again for the same gigabytes.

glibc hands blocks above 32 MiB back to the kernel when they are freed, so that every step pays for zeroed
pages anew. On two cores a static step at feature size 12 took 2.0 to 3.0 s with that and 1.3 s without.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to keep what is freed; returns whether it took the setting.

    Affects this process only, and CPU memory only. Elsewhere than on glibc nothing happens.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # A threshold of -1 is the largest size there is: never give the top of the heap back.
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))
