"""How this process gets its memory from the system."""

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

# Of glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_MMAP_MAX = -4

_KEPT_BYTES = 1 << 30
# What glibc's limits grow to as a process frees large blocks.
_LARGEST_MMAP_THRESHOLD = 32 << 20
_DEFAULT_MMAP_MAX = 65536


def keep_freed_memory() -> None:
    """Let freed tensors be taken up again, up to 1 GiB of them, rather than handed back.

    By default glibc maps each tensor of tens of megabytes anew, and the system clears it page by
    page: a quarter of a large network's time on a CPU. It holds for the whole process, and needs
    glibc.
    """
    _set_limits({_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: _KEPT_BYTES})


@contextmanager
def freed_memory_handed_back() -> Iterator[None]:
    """As in a process that never called ``keep_freed_memory``, which is called in the end."""
    _set_limits(
        {
            _M_MMAP_MAX: _DEFAULT_MMAP_MAX,
            _M_MMAP_THRESHOLD: _LARGEST_MMAP_THRESHOLD,
            _M_TRIM_THRESHOLD: 2 * _LARGEST_MMAP_THRESHOLD,
        }
    )
    try:
        yield
    finally:
        keep_freed_memory()


def _set_limits(limits: dict[int, int]) -> None:
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        for limit, value in limits.items():
            mallopt(limit, value)
