"""Fetch published weights once, check them, and keep them as a safetensors file."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx
from filelock import FileLock

from model.checkpoint import file_sha256
from model.convert_mmdet import convert_file
from model.registry import BASE_URL, PUBLISHED, PublishedWeights

#: Called with the bytes that are there and, where the server says it, how many there will be.
Progress = Callable[[int, int | None], None]

_TIMEOUT_S = 30
_ATTEMPTS = 5
_MAX_BYTES = 1024**3  # the largest published file has 454 MB


class DownloadError(Exception):
    """The weights could not be fetched; the text is one line that says why."""


def download_weights(
    variant: str,
    folder: Path,
    *,
    base_url: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """The weights file of an official variant in ``folder``, fetched unless it is there already.

    Args:
        variant: A key of ``PUBLISHED``.
        folder: Where results, and downloads that are not complete, are kept.
        base_url: A mirror; it has below it what MMDetection has below ``BASE_URL``.
        progress: Told about every piece that arrives.

    Raises:
        DownloadError: There are no such weights, or the server did not send them.
        CheckpointError: The file is the published one, and cannot be read.
    """
    published = PUBLISHED.get(variant)
    if published is None:
        raise DownloadError(f"no published weights of {variant!r}; there are {_names()}")
    result = folder / Path(published.file_name).with_suffix(".safetensors").name
    if result.is_file():
        return result
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(result.with_suffix(".lock")):  # who comes second waits, and finds the result
        if not result.is_file():
            archive = fetch(published, folder, base_url=base_url, progress=progress)
            convert_file(archive, result, variant=variant)
            _Part(archive).remove()
    return result


def _names() -> str:
    return ", ".join(PUBLISHED)


def fetch(
    published: PublishedWeights,
    folder: Path,
    *,
    base_url: str | None = None,
    progress: Progress | None = None,
) -> Path:
    """Download one file as ``<name>.part``, going on where an earlier download stopped.

    Returns:
        The complete file, its hash checked.

    Raises:
        DownloadError: The server cannot be reached or sends something else. What has arrived
            stays for the next time, unless it is wrong.
    """
    folder.mkdir(parents=True, exist_ok=True)
    part = _Part(folder / f"{published.file_name}.part")
    url = _address(base_url or BASE_URL, published)
    try:
        with _client(url) as http:
            _retrieve(http, url, part, progress or _silent)
    except httpx.HTTPError as error:
        raise DownloadError(f"{published.file_name}: {_explain(error, url.host)}") from error
    _verify(part, published)
    return part.path


def _address(base_url: str, published: PublishedWeights) -> httpx.URL:
    try:
        url = httpx.URL(f"{base_url.rstrip('/')}/{published.path}")
    except httpx.InvalidURL as error:
        raise DownloadError(f"{base_url}: no address ({error})") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise DownloadError(f"{base_url}: no address that begins with https:// or http://")
    return url


@dataclass(frozen=True, slots=True)
class _Part:
    """A file that may be incomplete, and the tag of the version on the server it belongs to."""

    path: Path

    @property
    def size(self) -> int:
        return self.path.stat().st_size if self.path.is_file() else 0

    @property
    def _tag_path(self) -> Path:
        return self.path.with_name(f"{self.path.name}.etag")

    @property
    def tag(self) -> str | None:
        return self._tag_path.read_text() if self._tag_path.is_file() else None

    def start(self, tag: str | None) -> None:
        """Become empty, to be filled from that version."""
        self.remove()
        if tag is not None and tag.startswith('"'):  # a weak tag does not vouch for bytes
            self._tag_path.write_text(tag)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)
        self._tag_path.unlink(missing_ok=True)


def _silent(done: int, total: int | None) -> None:
    """No progress to show."""


def _client(url: httpx.URL) -> httpx.Client:
    def stay_encrypted(request: httpx.Request) -> None:
        if url.scheme == "https" and request.url.scheme != "https":
            raise httpx.UnsupportedProtocol(
                f"redirected to {request.url.scheme}, which is not encrypted", request=request
            )

    return httpx.Client(
        follow_redirects=True, timeout=_TIMEOUT_S, event_hooks={"request": [stay_encrypted]}
    )


def _retrieve(http: httpx.Client, url: httpx.URL, part: _Part, progress: Progress) -> None:
    """Fill ``part``; a connection that breaks is opened again as long as it brings something."""
    for attempt in range(1, _ATTEMPTS + 1):
        before = part.size
        try:
            _request(http, url, part, progress)
        except httpx.TransportError:
            if attempt == _ATTEMPTS or part.size <= before:
                raise
        else:
            return


def _request(http: httpx.Client, url: httpx.URL, part: _Part, progress: Progress) -> None:
    with http.stream("GET", url, headers=_headers(part)) as response:
        if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE and part.size:
            return  # nothing is left to fetch; whether the bytes are right, the hash will tell
        if not response.is_success:
            place = f"{response.url.host}{response.url.path}"  # no password, no token
            raise DownloadError(f"{place} answered {response.status_code}")
        if response.status_code != httpx.codes.PARTIAL_CONTENT:
            part.start(response.headers.get("etag"))
        _append(response, part, progress)


def _headers(part: _Part) -> dict[str, str]:
    headers = {"accept-encoding": "identity"}
    if part.size:
        headers["range"] = f"bytes={part.size}-"
        if part.tag is not None:
            headers["if-range"] = part.tag
    return headers


def _append(response: httpx.Response, part: _Part, progress: Progress) -> None:
    done = part.size
    length = response.headers.get("content-length", "")
    total = done + int(length) if length.isdecimal() else None
    progress(done, total)
    _bound(total or 0, part)
    with part.path.open("ab") as file:
        for piece in response.iter_raw():
            done += len(piece)
            _bound(done, part)
            file.write(piece)
            progress(done, total)


def _bound(size: int, part: _Part) -> None:
    if size > _MAX_BYTES:
        part.remove()
        raise DownloadError(
            f"{part.path.name}: the server sends more than {_MAX_BYTES} bytes, "
            "more than any published weights have"
        )


def _verify(part: _Part, published: PublishedWeights) -> None:
    found, expected = file_sha256(part.path), published.sha256_prefix
    if not found.startswith(expected):
        part.remove()
        raise DownloadError(
            f"{published.file_name}: what arrived is not this file (its sha256 begins with "
            f"{found[: len(expected)]}, expected {expected}) and has been removed"
        )


def _explain(error: httpx.HTTPError, host: str) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return (
            f"{host} cannot be reached ({reason}); without network access, give the address of a "
            "mirror or copy the file here and convert it"
        )
    return (
        f"the download from {host} failed ({reason}); what has arrived is kept, and used next time"
    )
