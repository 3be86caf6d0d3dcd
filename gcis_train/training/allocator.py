"""Configure the memory allocator for training, where every step allocates and frees the same gigabytes.

By default, glibc returns freed blocks above 32 MiB to the kernel, which has to zero the pages again in the
next step. On two cores, a step of the static network at feature size 12 took 2.0 to 3.0 s with the default
and 1.3 s with freed memory kept.
"""

from __future__ import annotations

import ctypes

from gcis_runtime.platforms import LINUX

_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Make the allocator of glibc keep freed memory in the process.

    The setting affects CPU memory of this process only. Without glibc, the function does nothing.

    Returns:
        Whether the allocator accepted the setting.
    """
    if not LINUX:
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # A threshold of -1 is the largest size: the top of the heap is never returned to the kernel.
    return bool(mallopt(_M_MMAP_MAX, 0)) and bool(mallopt(_M_TRIM_THRESHOLD, -1))
