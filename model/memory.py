"""How this process gets its memory from the system."""

import ctypes
import sys
from collections.abc import Callable, Iterator
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
    """Let freed tensors be taken up again instead of being handed back to the system.

    By default glibc maps each tensor of tens of megabytes anew, and the system clears it page by
    page, which takes a good part of a large network's time on a CPU. From now on blocks of every
    size come from the heap, and what is free at its end is handed back above 1 GiB alone; what is
    free further in stays, to be used again. It holds for this process and those it forks, and needs
    glibc. Other threads than the main one have their blocks above 64 MiB mapped as before.
    """
    _set_limits({_M_MMAP_MAX: 0, _M_TRIM_THRESHOLD: _KEPT_BYTES})


@contextmanager
def freed_memory_handed_back() -> Iterator[None]:
    """With the limits that glibc's grow to by themselves; in the end with those above again."""
    _set_limits(
        {
            _M_MMAP_MAX: _DEFAULT_MMAP_MAX,
            _M_MMAP_THRESHOLD: _LARGEST_MMAP_THRESHOLD,
            _M_TRIM_THRESHOLD: 2 * _LARGEST_MMAP_THRESHOLD,
        }
    )
    _libc_function("malloc_trim")(0)
    try:
        yield
    finally:
        keep_freed_memory()


def _set_limits(limits: dict[int, int]) -> None:
    mallopt = _libc_function("mallopt")
    for limit, value in limits.items():
        mallopt(limit, value)


def _libc_function(name: str) -> Callable[..., object]:
    """Glibc's; one that does nothing where there is no such function."""
    if sys.platform != "linux":
        return lambda *_: None
    return getattr(ctypes.CDLL(None), name, lambda *_: None)  # musl has none of them
