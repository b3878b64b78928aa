import ctypes
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from model.memory import keep_freed_memory

LARGE = 64 << 20


class MallocInfo(ctypes.Structure):
    """``struct mallinfo2`` of glibc's malloc.h."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    ]


def free_bytes() -> int:
    """What this process has from the system and does not use."""
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = MallocInfo
    return mallinfo2().fordblks


def kept_of_a_large_block() -> int:
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    before = free_bytes()
    libc.free(ctypes.c_void_p(libc.malloc(ctypes.c_size_t(LARGE))))
    return free_bytes() - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_a_large_block_is_kept_when_it_is_freed() -> None:
    told = "from model.memory import keep_freed_memory; keep_freed_memory(); "
    measured = "from test_memory import kept_of_a_large_block; print(kept_of_a_large_block())"

    kept = [
        int(
            subprocess.run(
                [sys.executable, "-c", code + measured],
                cwd=Path(__file__).parent,
                capture_output=True,
                check=True,
            ).stdout
        )
        for code in ("", told)
    ]

    assert kept[0] < LARGE // 2
    assert kept[1] >= LARGE // 2


def test_other_systems_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", None)

    keep_freed_memory()
