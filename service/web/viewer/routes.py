"""Serves the page. Its files are read once; all they learn of the settings are a few limits."""

import hashlib
from dataclasses import dataclass
from importlib.resources import files
from string import Template

from fastapi import APIRouter, HTTPException, Request, Response

from service.settings import Settings
from service.web.compression import compressed

router = APIRouter()

PAGE = "index.html"
_MEDIA_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}


@dataclass(frozen=True, slots=True)
class ViewerFile:
    """One file as browsers get it."""

    content: bytes
    media_type: str
    etag: str


@dataclass(frozen=True, slots=True)
class Viewer:
    """All files of the page by name, and the headers that each of them is sent with."""

    files: dict[str, ViewerFile]
    headers: dict[str, str]


def load_viewer(settings: Settings) -> Viewer:
    """Read the page's files from the package."""
    sources = [file for file in files(__package__).joinpath("static").iterdir() if file.is_file()]
    found = {source.name: source.read_text("utf-8") for source in sources}
    found[PAGE] = Template(found[PAGE]).substitute(
        apply_exif=str(settings.apply_exif).lower(),
        max_body_bytes=settings.max_body_bytes,
        max_image_bytes=settings.max_image_bytes,
    )
    return Viewer({name: _file(name, text) for name, text in found.items()}, _headers(settings))


def _file(name: str, text: str) -> ViewerFile:
    content = text.encode()
    # Weak, since the same file goes out compressed and plain.
    etag = f'W/"{hashlib.sha256(content).hexdigest()[:32]}"'
    return ViewerFile(content, _MEDIA_TYPES[name.rpartition(".")[2]], etag)


def _headers(settings: Settings) -> dict[str, str]:
    # A picture named by its URL is loaded by the browser too, so that the masks have something to
    # lie on. Scripts can reach this service alone.
    hosts = "" if settings.url_policy == "disabled" else " https: http:"
    policy = (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        f"img-src 'self' blob:{hosts}",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
    return {
        "content-security-policy": "; ".join(policy),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cross-origin-opener-policy": "same-origin",
        "cross-origin-resource-policy": "same-origin",
        "cache-control": "no-cache",  # kept, but asked for with its tag each time
    }


@router.api_route("/viewer", methods=["GET", "HEAD"])
async def page(request: Request) -> Response:
    return await _answer(request, PAGE)


@router.api_route("/viewer/{name}", methods=["GET", "HEAD"])
async def page_file(request: Request, name: str) -> Response:
    return await _answer(request, name)


async def _answer(request: Request, name: str) -> Response:
    viewer: Viewer = request.app.state.viewer
    file = viewer.files.get(name)
    if file is None:
        raise HTTPException(404)
    headers = viewer.headers | {"etag": file.etag, "vary": "Accept-Encoding"}
    if _has(request, file.etag):
        return Response(status_code=304, headers=headers)
    answer = Response(file.content, 200, headers, file.media_type)
    return await compressed(answer, request.headers.get("accept-encoding", ""))


def _has(request: Request, etag: str) -> bool:
    """Whether the browser holds the file as it is now."""
    held = request.headers.get("if-none-match", "").split(",")
    return any(tag.strip() in (etag, etag.removeprefix("W/"), "*") for tag in held)
