"""How this process gets its memory from the system."""

import ctypes
import sys

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_MAX = -4
_KEPT_BYTES = 1 << 30


def keep_freed_memory() -> None:
    """Let freed tensors be taken up again, up to 1 GiB of them, rather than handed back.

    By default glibc maps each tensor of some megabytes anew, and the system clears it page by page:
    a quarter of a large network's time on a CPU. It holds for the whole process, and needs glibc.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(_M_MMAP_MAX, 0)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
