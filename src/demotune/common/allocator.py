"""What the C library's allocator keeps: a setting that every large tensor on CPU feels."""

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


class _MallocInfo(ctypes.Structure):
    """struct mallinfo2 of glibc's malloc.h."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks"),
            "keepcost",
        )
    )


def kept_bytes() -> int:
    """Bytes that glibc holds free for this process's next tensors; 0 where it cannot be asked."""
    if platform.libc_ver()[0] != "glibc" or not hasattr(library := ctypes.CDLL(None), "mallinfo2"):
        return 0
    library.mallinfo2.restype = _MallocInfo
    return int(library.mallinfo2().fordblks)
