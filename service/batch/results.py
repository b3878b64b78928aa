"""The file that results are appended to, and what of them it has already."""

import fcntl
import hashlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import orjson

from service.batch.errors import BatchError

# Two of a million names share a hash of 8 bytes once in 30 million runs.
_HASH_BYTES = 8

_LINE = re.compile(rb'\{"image":("(?:[^"\\]|\\.)*"),.*\}\n', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one image: the object that ``/score`` answers, or why there is none."""

    name: str
    answer: bytes = b""
    error: str | None = None

    def line(self) -> bytes:
        """As JSON, without the end of the line."""
        if self.error is not None:
            return orjson.dumps({"image": self.name, "error": self.error})
        return b'{"image":' + orjson.dumps(self.name) + b"," + self.answer[1:]


class Names:
    """A set of names, remembered by their hashes: some 80 MB for a million of them."""

    def __init__(self) -> None:
        self._digests: set[int] = set()

    def __len__(self) -> int:
        return len(self._digests)

    def claim(self, name: str) -> bool:
        """Whether that name is new; only the first to ask is told so."""
        digest = _digest(name)
        new = digest not in self._digests
        self._digests.add(digest)
        return new


class ResultFile:
    """Lines of results, each whole once written, whatever kills the process afterwards.

    Opened again it goes on behind the last whole line.

    Args:
        path: Made if missing.
        overwrite: Forget what is in it.

    Raises:
        BatchError: The file cannot be written, is being written by another process, or holds
            anything but such results.
    """

    def __init__(self, path: Path, *, overwrite: bool = False) -> None:
        self._path = path
        self.names = Names()
        """Of the results that there are, or that somebody is about to have."""

        self._file = self._open()
        try:
            self._lock()
            self._cut_off(0 if overwrite else self._read_names())
        except BaseException:
            self._file.close()
            raise
        self.found = len(self.names)
        """Results that were there before."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._file.close()

    def claim(self, name: str) -> bool:
        """Whether the result of that name is still to be had; only the first to ask is told so."""
        return self.names.claim(name)

    def append(self, result: Result) -> None:
        rest = memoryview(result.line() + b"\n")
        try:
            while rest:
                rest = rest[os.write(self._file.fileno(), rest) :]
        except OSError as error:
            raise self._unwritable(error) from error

    def _open(self) -> BinaryIO:
        """To be read as a file; it is written without a buffer, which none could be left in."""
        try:
            file = os.fdopen(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666), "rb")
        except OSError as error:
            raise self._unwritable(error) from error
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            file.close()
            raise BatchError(f"{self._path} is not a regular file")
        return file

    def _cut_off(self, size: int) -> None:
        try:
            os.ftruncate(self._file.fileno(), size)
        except OSError as error:
            raise self._unwritable(error) from error

    def _unwritable(self, error: OSError) -> BatchError:
        return BatchError(f"cannot write {self._path} ({error.strerror})")

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BatchError(f"{self._path} is being written by another process") from error

    def _read_names(self) -> int:
        """Remember the names; return where the last whole line ends."""
        end = 0
        for number, line in enumerate(self._file, 1):
            if not line.endswith(b"\n"):
                break
            match = _LINE.fullmatch(line)
            if match is None:
                raise BatchError(
                    f"{self._path}: line {number} is no result; name another file, or --overwrite"
                )
            self.names.claim(orjson.loads(match[1]))
            end += len(line)
        return end


def _digest(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=_HASH_BYTES).digest())
