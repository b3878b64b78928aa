import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from model.memory import freed_memory_handed_back, keep_freed_memory

LARGE = 256 << 20
HUGE = 2 << 30  # more than is kept, so it can only be new; nothing is written to it

LIBC = ctypes.CDLL(None)


class MallocInfo(ctypes.Structure):
    """``struct mallinfo2`` of glibc's malloc.h."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


if hasattr(LIBC, "mallinfo2"):  # glibc 2.33
    LIBC.mallinfo2.restype = MallocInfo
    LIBC.malloc.restype = ctypes.c_void_p


@contextmanager
def allocated(size: int) -> Iterator[None]:
    block = ctypes.c_void_p(LIBC.malloc(ctypes.c_size_t(size)))
    yield
    LIBC.free(block)


def is_mapped_anew(size: int) -> bool:
    before = LIBC.mallinfo2().hblkhd
    with allocated(size):
        return LIBC.mallinfo2().hblkhd - before >= size


@pytest.fixture
def limits_of_glibc() -> Iterator[None]:
    if not hasattr(LIBC, "mallinfo2"):
        pytest.skip("only glibc is told, and only newer ones tell of it")
    with freed_memory_handed_back():
        yield


@pytest.mark.usefixtures("limits_of_glibc")
def test_a_large_block_stays_with_the_process_when_it_is_freed() -> None:
    keep_freed_memory()

    with allocated(LARGE):
        used = LIBC.mallinfo2().fordblks

    assert LIBC.mallinfo2().fordblks - used >= LARGE


@pytest.mark.usefixtures("limits_of_glibc")
def test_a_huge_block_goes_back() -> None:
    keep_freed_memory()

    with allocated(HUGE):
        assert LIBC.mallinfo2().arena >= HUGE

    assert LIBC.mallinfo2().arena < HUGE


@pytest.mark.usefixtures("limits_of_glibc")
def test_blocks_are_mapped_anew_until_told_otherwise_and_for_a_while_after() -> None:
    assert is_mapped_anew(HUGE)
    keep_freed_memory()
    assert not is_mapped_anew(HUGE)

    with freed_memory_handed_back():
        assert is_mapped_anew(HUGE)

    assert not is_mapped_anew(HUGE)


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", None)

    keep_freed_memory()
