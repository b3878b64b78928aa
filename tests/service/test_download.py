import hashlib
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import MappingProxyType

import httpx
import pytest
import torch
from goldens import official_keys

from model.checkpoint import load_checkpoint
from model.config import VARIANTS
from model.registry import PublishedWeights
from service.download import DownloadError, _client, download_weights, fetch

CONTENT = bytes(range(256)) * 4000  # 1,024,000 bytes
PATH = "/mirror/model/"


def published(content: bytes = CONTENT) -> PublishedWeights:
    return PublishedWeights(f"model_20220512_1-{hashlib.sha256(content).hexdigest()[:8]}.pth", 1.0)


@dataclass
class Behaviour:
    """What the server does, and what it was asked."""

    content: bytes = CONTENT
    status: int = 200
    tag: str | None = '"first"'
    ranges: bool = True
    says_length: bool = True
    breaks_after: list[int] = field(default_factory=list)  # bytes of each coming answer
    redirects: dict[str, str] = field(default_factory=dict)
    asked: list[Message] = field(default_factory=list)  # the headers of each request

    @property
    def ranges_asked(self) -> list[str | None]:
        return [headers["range"] for headers in self.asked]


class FileServer(ThreadingHTTPServer):
    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behaviour = Behaviour()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        behaviour = self.server.behaviour
        if self.path in behaviour.redirects:
            self._start(302, {"location": behaviour.redirects[self.path]})
            return
        behaviour.asked.append(self.headers)
        if behaviour.status != 200:
            self._start(behaviour.status, {"content-length": "0"})
            return
        self._send(behaviour, self._first_byte(behaviour))

    def _first_byte(self, behaviour: Behaviour) -> int:
        asked = self.headers["range"]
        condition = self.headers["if-range"]
        if not (asked and behaviour.ranges) or condition not in (None, behaviour.tag):
            return 0
        return int(asked.removeprefix("bytes=").rstrip("-"))

    def _send(self, behaviour: Behaviour, first: int) -> None:
        rest = behaviour.content[first:]
        if first and not rest:
            self._start(416, {"content-length": "0"})
            return
        headers = {"content-length": str(len(rest))} if behaviour.says_length else {}
        headers |= {"etag": behaviour.tag} if behaviour.tag else {}
        if first:
            total = len(behaviour.content)
            headers["content-range"] = f"bytes {first}-{total - 1}/{total}"
        self._start(206 if first else 200, headers)
        self.wfile.write(rest[: behaviour.breaks_after.pop(0) if behaviour.breaks_after else None])

    def _start(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[FileServer]:
    with FileServer() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture
def get(server: FileServer, tmp_path: Path) -> Callable[[], Path]:
    """Fetch the file from the server."""
    return lambda: fetch(published(), tmp_path, base_url=f"{server.url}/mirror/")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_file_is_fetched_and_its_pieces_are_reported(server: FileServer, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []

    path = fetch(
        published(),
        tmp_path / "new" / "folder",
        base_url=f"{server.url}/mirror",
        progress=lambda done, total: seen.append((done, total)),
    )

    assert path.read_bytes() == CONTENT
    assert seen[0] == (0, len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert server.behaviour.ranges_asked == [None]
    assert server.behaviour.asked[0]["accept-encoding"] == "identity"  # ranges count those bytes


def test_a_broken_connection_is_taken_up_where_it_broke(
    server: FileServer, get: Callable[[], Path]
) -> None:
    server.behaviour.breaks_after = [300_000, 200_000]

    assert get().read_bytes() == CONTENT
    assert server.behaviour.ranges_asked == [None, "bytes=300000-", "bytes=500000-"]


def test_a_failed_download_is_resumed_by_the_next(
    server: FileServer, get: Callable[[], Path], tmp_path: Path
) -> None:
    server.behaviour.breaks_after = [300_000, 0]

    with pytest.raises(DownloadError, match="what has arrived is kept") as failure:
        get()
    assert "\n" not in str(failure.value)
    assert (tmp_path / f"{published().file_name}.part").stat().st_size == 300_000

    assert get().read_bytes() == CONTENT
    assert server.behaviour.ranges_asked[-1] == "bytes=300000-"


def test_a_server_that_breaks_every_time_is_given_up(
    server: FileServer, get: Callable[[], Path]
) -> None:
    server.behaviour.breaks_after = [1000] * 9

    with pytest.raises(DownloadError, match="failed"):
        get()

    assert len(server.behaviour.ranges_asked) == 5


def test_a_file_that_changed_on_the_server_starts_again(
    server: FileServer, get: Callable[[], Path]
) -> None:
    server.behaviour.content = b"x" * 500_000
    server.behaviour.breaks_after = [300_000, 0]
    with pytest.raises(DownloadError):
        get()
    server.behaviour.content, server.behaviour.tag = CONTENT, '"second"'

    assert get().read_bytes() == CONTENT


def test_a_weak_tag_is_not_relied_on(server: FileServer, get: Callable[[], Path]) -> None:
    server.behaviour.tag = 'W/"first"'
    server.behaviour.breaks_after = [300_000]

    assert get().read_bytes() == CONTENT
    assert server.behaviour.ranges_asked == [None, "bytes=300000-"]
    assert server.behaviour.asked[1]["if-range"] is None


def test_a_server_without_tags_can_be_resumed(server: FileServer, get: Callable[[], Path]) -> None:
    server.behaviour.tag = None
    server.behaviour.breaks_after = [300_000]

    assert get().read_bytes() == CONTENT


def test_a_server_without_ranges_starts_again(server: FileServer, get: Callable[[], Path]) -> None:
    server.behaviour.ranges = False
    server.behaviour.breaks_after = [300_000, 0]
    with pytest.raises(DownloadError):
        get()

    assert get().read_bytes() == CONTENT


def test_a_download_that_only_lacks_its_check_is_complete(
    server: FileServer, get: Callable[[], Path]
) -> None:
    assert get().read_bytes() == CONTENT

    assert get().read_bytes() == CONTENT
    assert server.behaviour.ranges_asked == [None, f"bytes={len(CONTENT)}-"]


def test_a_server_that_says_no_length_is_read_to_the_end(
    server: FileServer, tmp_path: Path
) -> None:
    server.behaviour.says_length = False
    totals: list[int | None] = []

    path = fetch(
        published(),
        tmp_path,
        base_url=f"{server.url}/mirror",
        progress=lambda done, total: totals.append(total),
    )

    assert path.read_bytes() == CONTENT
    assert set(totals) == {None}


def test_wrong_bytes_are_removed(
    server: FileServer, get: Callable[[], Path], tmp_path: Path
) -> None:
    server.behaviour.content = CONTENT[:-1] + b"!"

    with pytest.raises(DownloadError, match=r"sha256 begins with [0-9a-f]{8}, expected") as failure:
        get()

    assert published().sha256_prefix in str(failure.value)
    assert names(tmp_path) == set()


@pytest.mark.parametrize("status", [403, 404, 500, 503])
def test_a_refusal_is_quoted_without_secrets(
    status: int, server: FileServer, tmp_path: Path
) -> None:
    server.behaviour.status = status
    base_url = server.url.replace("//", "//user:password@") + "/mirror"

    with pytest.raises(DownloadError) as failure:
        fetch(published(), tmp_path, base_url=base_url)

    place = f"127.0.0.1/mirror/model/{published().file_name}"
    assert str(failure.value) == f"{place} answered {status}"


def test_redirects_are_followed(server: FileServer, get: Callable[[], Path]) -> None:
    elsewhere = f"{server.url}/elsewhere?token=1"
    server.behaviour.redirects = {PATH + published().file_name: elsewhere}
    server.behaviour.breaks_after = [300_000]

    assert get().read_bytes() == CONTENT
    assert server.behaviour.ranges_asked == [None, "bytes=300000-"]


@pytest.mark.parametrize("scheme", ["file:///etc/passwd", "ftp://127.0.0.1/weights"])
def test_redirects_lead_to_http_only(
    scheme: str, server: FileServer, get: Callable[[], Path], tmp_path: Path
) -> None:
    server.behaviour.redirects = {PATH + published().file_name: scheme}

    with pytest.raises(DownloadError, match="protocol"):
        get()

    assert names(tmp_path) == set()


def test_a_circle_of_redirects_ends(server: FileServer, get: Callable[[], Path]) -> None:
    here = PATH + published().file_name
    server.behaviour.redirects = {here: here}

    with pytest.raises(DownloadError, match="redirects"):
        get()


def test_encryption_is_not_left_on_the_way(server: FileServer, tmp_path: Path) -> None:
    with (
        _client(httpx.URL("https://example.org/weights.pth")) as http,
        pytest.raises(httpx.UnsupportedProtocol, match="not encrypted"),
    ):
        http.get(server.url)


def test_without_a_network_one_line_says_so(server: FileServer, tmp_path: Path) -> None:
    server.server_close()

    with pytest.raises(DownloadError, match=r"127\.0\.0\.1 cannot be reached") as failure:
        fetch(published(), tmp_path, base_url=server.url)

    assert "without network access, give the address of a mirror" in str(failure.value)
    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("address", ["mirror", "file:///mirror", "http://host:port", "http://"])
def test_an_address_that_is_none_is_one_line(address: str, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="no address") as failure:
        fetch(published(), tmp_path, base_url=address)

    assert "\n" not in str(failure.value)


@pytest.mark.parametrize("says_length", [True, False])
def test_more_bytes_than_any_weights_have_are_not_stored(
    says_length: bool,
    server: FileServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("service.download._MAX_BYTES", 100_000)
    server.behaviour.says_length = says_length
    seen: list[int] = []

    with pytest.raises(DownloadError, match="sends more than 100000 bytes"):
        fetch(
            published(),
            tmp_path,
            base_url=f"{server.url}/mirror",
            progress=lambda done, total: seen.append(done),
        )

    assert max(seen) <= (0 if says_length else 100_000)
    assert names(tmp_path) == set()


LIGHT = "light_r18_3x"


@pytest.fixture
def weights(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a mirror that has weights of one variant; the registry knows them."""
    path = tmp_path / "source.pth"
    state = {key: torch.zeros(()).expand(shape) for key, shape in official_keys(LIGHT).items()}
    counters = {k: v.long() for k, v in state.items() if "num_batches" in k}
    torch.save({"state_dict": state | counters, "meta": {}}, path)
    server.behaviour.content = path.read_bytes()
    path.unlink()
    entry = MappingProxyType({LIGHT: published(server.behaviour.content)})
    monkeypatch.setattr("service.download.PUBLISHED", entry)
    return f"{server.url}/mirror"


def test_weights_are_kept_as_safetensors_and_fetched_once(
    weights: str, server: FileServer, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"

    path = download_weights(LIGHT, cache, base_url=weights)

    assert path.suffix == ".safetensors"
    assert names(cache) - {path.with_suffix(".lock").name} == {path.name}
    assert load_checkpoint(path).config == VARIANTS[LIGHT]
    server.server_close()
    assert download_weights(LIGHT, cache, base_url=weights) == path
    assert len(server.behaviour.ranges_asked) == 1


def test_two_downloads_at_once_fetch_one_file(
    weights: str, server: FileServer, tmp_path: Path
) -> None:
    with ThreadPoolExecutor() as pool:
        paths = set(
            pool.map(lambda _: download_weights(LIGHT, tmp_path, base_url=weights), range(2))
        )

    assert len(paths) == 1
    assert load_checkpoint(paths.pop()).config == VARIANTS[LIGHT]
    assert len(server.behaviour.ranges_asked) == 1


def test_weights_that_are_not_published_are_refused_with_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=r"'light_r50_dcn_3x'; there are r50_1x, .*r50_3x"):
        download_weights("light_r50_dcn_3x", tmp_path)


def test_without_a_mirror_the_authors_server_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.download.BASE_URL", "http://127.0.0.1:9/solov2")

    with pytest.raises(DownloadError, match=r"^solov2_r50_fpn_1x_coco_.*127"):
        download_weights("r50_1x", tmp_path)
