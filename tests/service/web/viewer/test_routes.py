import re
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from service.settings import Settings
from service.web.app import create_app

ROOT = Path(__file__).parents[4]
PACKAGE = ROOT / "service" / "web" / "viewer"
FILES = sorted(file.name for file in (PACKAGE / "static").iterdir())


@pytest.fixture
def client(dispatcher) -> Iterator[TestClient]:
    with TestClient(create_app(Settings(), dispatcher)) as client:
        yield client


def policy(response) -> dict[str, str]:
    """Directive -> sources."""
    directives = response.headers["content-security-policy"].split("; ")
    return {name: sources for name, _, sources in (d.partition(" ") for d in directives)}


def test_the_page_is_html_that_is_told_the_limits(dispatcher) -> None:
    settings = Settings(apply_exif=True, max_body_bytes=2345, max_image_bytes=1234)
    with TestClient(create_app(settings, dispatcher)) as client:
        response = client.get("/viewer")

    assert response.status_code == 200
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert 'data-apply-exif="true"' in response.text
    assert 'data-max-body-bytes="2345"' in response.text
    assert 'data-max-image-bytes="1234"' in response.text


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("main.js", "text/javascript; charset=utf-8"),
        ("viewer.css", "text/css; charset=utf-8"),
        ("icon.svg", "image/svg+xml"),
    ],
)
def test_its_files_have_their_types(client: TestClient, name: str, media_type: str) -> None:
    response = client.get(f"/viewer/{name}")

    assert response.headers["content-type"] == media_type
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.content == (PACKAGE / "static" / name).read_bytes()


def test_every_file_that_a_file_names_is_served(client: TestClient) -> None:
    html = client.get("/viewer").text
    named = set(re.findall(r'(?:href|src)="([^"]+)"', html))
    scripts = [client.get(f"/viewer/{name}").text for name in FILES if name.endswith(".js")]
    named |= {f"viewer/{name}" for name in re.findall(r'from "\./([^"]+)"', "\n".join(scripts))}

    assert {f"viewer/{name}" for name in FILES if name != "index.html"} == named
    assert {client.get(f"/{name}").status_code for name in named} == {200}


@pytest.mark.parametrize("path", ["/viewer", "/viewer/main.js"])
class TestHeaders:
    def test_let_nothing_run_but_the_pages_own_files(self, client: TestClient, path: str) -> None:
        sources = policy(client.get(path))

        assert sources.pop("img-src") == "'self' blob: https: http:"
        assert sources == {
            "default-src": "'none'",
            "script-src": "'self'",
            "style-src": "'self'",
            "connect-src": "'self'",
            "base-uri": "'none'",
            "form-action": "'none'",
            "frame-ancestors": "'none'",
            "require-trusted-types-for": "'script'",
            "trusted-types": "'none'",
        }

    def test_tell_no_host_of_a_photo_where_the_page_is(self, client: TestClient, path: str) -> None:
        assert client.get(path).headers["referrer-policy"] == "no-referrer"

    def test_let_a_browser_keep_the_file_but_ask_each_time(
        self, client: TestClient, path: str
    ) -> None:
        assert client.get(path).headers["cache-control"] == "no-cache"

    def test_are_those_of_a_get_when_only_they_are_asked_for(
        self, client: TestClient, path: str
    ) -> None:
        def comparable(response) -> dict[str, str]:
            return {k: v for k, v in response.headers.items() if "request-id" not in k}

        head = client.head(path)

        assert head.status_code == 200
        assert comparable(head) == comparable(client.get(path))


def test_photos_of_other_hosts_are_not_loaded_where_no_url_is_fetched(dispatcher) -> None:
    with TestClient(create_app(Settings(url_policy="disabled"), dispatcher)) as client:
        assert policy(client.get("/viewer"))["img-src"] == "'self' blob:"


class TestCaching:
    @pytest.mark.parametrize("held", ["{}", 'W/"other", {}', "*"])
    def test_what_the_browser_holds_is_not_sent_again(self, client: TestClient, held: str) -> None:
        first = client.get("/viewer")

        again = client.get("/viewer", headers={"if-none-match": held.format(first.headers["etag"])})

        assert again.status_code == 304
        assert again.content == b""
        kept = ("etag", "cache-control", "vary", "content-security-policy")
        assert [again.headers[k] for k in kept] == [first.headers[k] for k in kept]

    def test_another_version_is_sent(self, client: TestClient) -> None:
        assert client.get("/viewer", headers={"if-none-match": 'W/"other"'}).status_code == 200

    def test_another_setting_makes_another_version(self, client: TestClient, dispatcher) -> None:
        with TestClient(create_app(Settings(apply_exif=True), dispatcher)) as turning:
            tags = [c.get("/viewer").headers["etag"] for c in (client, turning)]

        assert tags[0] != tags[1]


@pytest.mark.parametrize("path", ["/viewer/", "/viewer/nothing.js", "/viewer/..%2froutes.py"])
def test_anything_else_below_it_is_not_found(client: TestClient, path: str) -> None:
    response = client.get(path, follow_redirects=False)

    assert response.status_code == 404
    assert response.json()["message"].startswith("The requested URL was not found on the server.")


@pytest.mark.parametrize("method", ["GET", "HEAD", "POST"])
@pytest.mark.parametrize("path", ["/viewer", "/viewer/main.js"])
def test_there_is_no_page_where_a_setting_says_so(dispatcher, method: str, path: str) -> None:
    with TestClient(create_app(Settings(viewer=False), dispatcher)) as client:
        assert client.request(method, path).status_code == 404


def test_an_installed_package_holds_all_files() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = pyproject["tool"]["setuptools"]["package-data"]["service.web.viewer"]

    assert FILES
    assert all(any(fnmatch(f"static/{name}", pattern) for pattern in patterns) for name in FILES)
