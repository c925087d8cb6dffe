"""One setting of the C library's allocator that every large tensor on CPU feels."""

import ctypes
import os
import platform

TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
"""Of mallopt, from glibc's malloc.h."""


def keep_memory() -> bool:
    """Tell glibc to keep what it once got from the system; returns whether it does.

    It would give each large tensor back and have its pages zeroed anew for the next one. Results do not change.
    DEMOTUNE_KEEP_MEMORY=0 in the environment turns this off; other C libraries have no such setting.
    """
    if os.environ.get("DEMOTUNE_KEEP_MEMORY") == "0" or platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(MMAP_MAX, 0) and mallopt(TRIM_THRESHOLD, -1) and mallopt(TOP_PAD, 2**26))
