"""What a batch may be given: folders, globs, lists, tables and archives of images."""

import csv
import glob
import itertools
import os
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from service.batch.errors import BatchError
from service.errors import BadImageError
from service.photos import PICTURE_SUFFIXES
from service.web.images import DATA_URI, URL, check_size

STDIN = "-"

_TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_MAX_PATH_CHARS = 4096
_READ_BYTES = 1 << 20  # of a Parquet file, instead of a whole row group
_ROWS_AT_ONCE = 16  # of a Parquet file, each with its image

# A file; base64 or a URL; what is in a file; why there is no image.
Content = Path | str | bytes | BadImageError


@dataclass(frozen=True, slots=True)
class Item:
    """One image to come.

    ``name`` is its own within the input, and the same whenever that is read again.
    """

    name: str
    content: Content


@dataclass(frozen=True, slots=True)
class Source:
    """Images in an order of their own, one at a time in memory."""

    items: Callable[[], Iterator[Item]]
    """May be pickled, and called in another process of this machine."""

    count: Callable[[], int | None]
    """How many there are; None where only reading everything would tell. It may take a while."""


def open_source(given: str, *, column: str, max_image_bytes: int) -> Source:
    """The images that an argument stands for.

    Args:
        given: A folder, which is searched with all below it; a glob; a file that lists paths or
            URLs, one a line, ``-`` for standard input; a ``.csv``, ``.parquet`` or ``.tar`` file;
            an image. Paths in a file are relative to its folder.
        column: Where a table has its images.
        max_image_bytes: Members of an archive that are larger are not read.

    Raises:
        BatchError: There is nothing there, or it cannot be read.
    """
    path = Path(given)
    suffixes = path.name.lower()
    if given == STDIN:
        return _stdin()
    if path.is_dir():
        return _countable(partial(_folder, path))
    if not path.exists():
        return _glob(given, max_image_bytes)
    if suffixes.endswith(_TAR_SUFFIXES):
        return _tars([given], max_image_bytes)
    if suffixes.endswith(".csv"):
        return _countable(partial(_csv, path, column, max_image_bytes))
    if suffixes.endswith(".parquet"):
        return _parquet(path, column)
    if path.suffix.lower() in PICTURE_SUFFIXES:
        return _countable(partial(iter, [Item(as_text(path.name), path)]))
    return _countable(partial(_listed, path, path.parent, given))


def _countable(items: Callable[[], Iterator[Item]]) -> Source:
    """Of items that cost nothing to go through: their images are read elsewhere."""
    return Source(items, lambda: sum(1 for _ in items()))


def as_text(path: str) -> str:
    """A path as text that JSON can hold, whatever bytes it has."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


# Folders and globs


def _folder(root: Path) -> Iterator[Item]:
    """In the order of the file system. Links to folders are not followed: they may go round."""
    folders = [root]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                path = Path(entry.path)
                if entry.is_dir(follow_symlinks=False):
                    folders.append(path)
                elif path.suffix.lower() in PICTURE_SUFFIXES:
                    yield Item(as_text(str(path.relative_to(root))), path)


def _glob(pattern: str, max_image_bytes: int) -> Source:
    """Archives if the first match is one, else images."""
    matches = glob.iglob(pattern, recursive=True)  # noqa: PTH207  # patterns may be absolute
    first = next((match for match in matches if Path(match).is_file()), None)
    if first is None:
        raise BatchError(f"{pattern}: no such file or folder, and no file matches it")
    if first.lower().endswith(_TAR_SUFFIXES):
        return _tars(sorted([first, *matches]), max_image_bytes)
    return _countable(partial(_matches, pattern))


def _matches(pattern: str) -> Iterator[Item]:
    for match in glob.iglob(pattern, recursive=True):  # noqa: PTH207
        path = Path(match)
        if path.is_file():
            yield Item(as_text(match), path)


# Lists and tables


def _stdin() -> Source:
    """By way of a file, which can be read twice, and while nothing else runs: it may never end."""
    spool = tempfile.NamedTemporaryFile()  # noqa: SIM115  # lives as long as the lambda that has it
    shutil.copyfileobj(sys.stdin.buffer, spool)
    spool.flush()
    items = partial(_listed, Path(spool.name), Path(), "standard input")
    return Source(items, lambda _=spool: sum(1 for _ in items()))  # type: ignore[misc]


def _listed(path: Path, folder: Path, title: str) -> Iterator[Item]:
    with path.open(encoding="utf-8-sig", errors="surrogateescape") as lines:
        for number in itertools.count(1):
            line = lines.readline(_MAX_PATH_CHARS + 1)
            if not line:
                return
            if len(line) > _MAX_PATH_CHARS or "\0" in line:
                raise BatchError(f"{title}: line {number} is neither a path nor a URL")
            if entry := line.strip():
                yield Item(as_text(entry), entry if URL.match(entry) else folder / entry)


def _csv(path: Path, column: str, max_image_bytes: int) -> Iterator[Item]:
    """Rows are named by their numbers, the one after the heading being 0."""
    csv.field_size_limit(2 * max_image_bytes)  # base64 of the largest image, line breaks included
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as lines:
        rows = csv.reader(lines)
        heading = next(rows, [])
        if column not in heading:
            raise _no_column(path, column, heading)
        place = heading.index(column)
        for number, row in enumerate(_rows(rows)):
            yield Item(str(number), _cell(row, place, path.parent))


def _rows(rows: Iterator[list[str]]) -> Iterator[list[str] | None]:
    """None for what is no row; the reader goes on behind it. Empty lines are skipped."""
    while True:
        try:
            row = next(rows, None)
        except csv.Error:
            yield None
            continue
        if row is None:
            return
        if row:
            yield row


def _cell(row: list[str] | None, place: int, folder: Path) -> Content:
    if row is None:
        return BadImageError("the row is not valid CSV, or its image is too large")
    return _image_of(row[place], folder) if place < len(row) else ""


def _image_of(value: object, folder: Path) -> Content:
    """What a cell holds: the bytes of an image, its base64, its URL, its path.

    Base64 has no dot. A path without one has to be there to be taken for a path.
    """
    if isinstance(value, dict):  # as Hugging Face's data sets have it
        value = value.get("bytes") or value.get("path")
    if isinstance(value, bytes):
        return value
    text = "" if value is None else str(value)
    if len(text) > _MAX_PATH_CHARS or "\0" in text or URL.match(text) or DATA_URI.match(text):
        return text
    path = folder / text.strip()
    return path if "." in text or os.path.isfile(path) else text  # noqa: PTH113  # never raises


def _parquet(path: Path, column: str) -> Source:
    try:
        from pyarrow import ArrowException, parquet  # an extra
    except ModuleNotFoundError:
        why = "pyarrow is not installed; pip install 'solov2[batch]' brings it"
        raise BatchError(why) from None
    try:
        with parquet.ParquetFile(path) as file:
            count, heading = file.metadata.num_rows, file.schema_arrow.names
    except (ArrowException, OSError) as error:
        raise BatchError(f"{path}: not a Parquet file, or not readable") from error
    if column not in heading:
        raise _no_column(path, column, heading)
    return Source(partial(_rows_of_parquet, path, column), lambda: count)


def _cells(path: Path, column: str) -> Iterator[object]:
    from pyarrow import ArrowException, parquet  # an extra

    try:
        with parquet.ParquetFile(path, buffer_size=_READ_BYTES) as file:
            for rows in file.iter_batches(_ROWS_AT_ONCE, columns=[column]):
                yield from rows.column(0).to_pylist()
    except (ArrowException, OSError) as error:
        raise BatchError(f"{path}: the file is damaged") from error


def _rows_of_parquet(path: Path, column: str) -> Iterator[Item]:
    for number, cell in enumerate(_cells(path, column)):
        yield Item(str(number), _image_of(cell, path.parent))


def _no_column(path: Path, column: str, heading: list[str]) -> BatchError:
    known = ", ".join(name[:40] for name in heading[:20])
    return BatchError(f"{path}: no column {column!r} among {known}; --column names another")


# Archives


def _tars(shards: list[str], max_image_bytes: int) -> Source:
    items = partial(_members_of_all, shards, max_image_bytes)
    return Source(items, lambda: _count_members(shards))


def _members_of_all(shards: list[str], max_image_bytes: int) -> Iterator[Item]:
    for shard in shards:
        yield from _members(shard, max_image_bytes)


def _members(shard: str, max_image_bytes: int) -> Iterator[Item]:
    """A shard that breaks off is one bad image more; the next one is read all the same."""
    try:
        with tarfile.open(shard, "r|*") as tar:
            for member in _headers(tar):
                if _is_image(member):
                    name = as_text(f"{shard}!{member.name}")
                    yield Item(name, _read(tar, member, max_image_bytes))
    except (tarfile.TarError, OSError, EOFError):
        yield Item(as_text(shard), BadImageError("the archive is damaged, or cannot be read"))


def _headers(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]  # it would keep all of them
        yield member


def _is_image(member: tarfile.TarInfo) -> bool:
    return member.isfile() and Path(member.name).suffix.lower() in PICTURE_SUFFIXES


def _read(
    tar: tarfile.TarFile, member: tarfile.TarInfo, max_image_bytes: int
) -> bytes | BadImageError:
    try:
        check_size(member.size, max_image_bytes)
    except BadImageError as error:
        return error
    file = tar.extractfile(member)
    assert file is not None  # it is a regular file
    return file.read()


def _count_members(shards: list[str]) -> int | None:
    """Going from header to header; None where they are compressed."""
    count = 0
    for shard in shards:
        try:
            with tarfile.open(shard, "r:") as tar:
                count += sum(map(_is_image, _headers(tar)))
        except (tarfile.TarError, OSError):
            return None
    return count
