"""A real browser in front of the page, and drawn pictures in which all is known to the pixel."""

import asyncio
import base64
import io
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from model.decode import decode_image
from model.structures import Instances
from service.dispatch.dispatcher import Health
from service.protocol import EncodedImage
from service.worker.encode import encode_instances

if TYPE_CHECKING:
    from playwright.sync_api import Page

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, BROWSERS)), "")

NO_PLAYWRIGHT = "playwright is not installed: pip install --group browser"
in_browser = [
    pytest.mark.browser,
    pytest.mark.skipif(not CHROMIUM, reason=f"none of {', '.join(BROWSERS)} is installed"),
]
# A fresh profile is Playwright's own doing.
FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 360, "height": 740}

BLACK, BLUE, GREEN = (0, 0, 0), (0, 0, 170), (0, 110, 0)
#: What is seen in a drawn picture, best first: the parts of one colour.
SEEN = {BLACK: ("person", 0.9), BLUE: ("cat", 0.45), GREEN: ("person", 0.12)}

Mask = npt.NDArray[np.bool_]


def of_colour(pixels: npt.NDArray[np.uint8], colour: tuple[int, int, int]) -> Mask:
    return np.abs(pixels.astype(int) - colour).max(axis=2) < 50


class SeesColours:
    """Finds all parts of a colour, to the pixel; does what its fields say otherwise."""

    def __init__(self, *, apply_exif: bool = False) -> None:
        self.apply_exif = apply_exif
        self.error: Exception | None = None
        self.scored: list[EncodedImage] = []

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def retry_after_s(self) -> int:
        return 7

    def health(self) -> Health:
        return Health()

    def submit(self, images: Sequence[EncodedImage]) -> list[asyncio.Future[bytes]]:
        return [self._answer(image) for image in images]

    def _answer(self, image: EncodedImage) -> asyncio.Future[bytes]:
        self.scored.append(image)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        if self.error is None:
            answer.set_result(self._fragment(image.data))
        else:
            answer.set_exception(self.error)
        return answer

    def _fragment(self, data: bytes) -> bytes:
        pixels = decode_image(data, apply_exif=self.apply_exif)
        masks = {colour: of_colour(pixels, colour) for colour in SEEN}
        found = [colour for colour, mask in masks.items() if mask.any()]
        names = ["person", "cat"]
        instances = Instances.from_full_masks(
            np.array([SEEN[colour][1] for colour in found], np.float32),
            np.array([names.index(SEEN[colour][0]) for colour in found], np.int64),
            np.array([masks[colour] for colour in found]).reshape(-1, *pixels.shape[:2]),
        )
        return encode_instances(instances, names, tolerance_px=0)


def drawing() -> Image.Image:
    """A person of two parts, one with a hole that holds a third; a cat; a weak person."""
    picture = Image.new("RGB", (320, 200), "white")
    for colour, x, y, width, height in (
        (BLACK, 20, 30, 120, 130),
        ((255, 255, 255), 50, 60, 60, 70),
        (BLACK, 70, 80, 16, 24),
        (BLACK, 150, 20, 30, 40),
        (BLUE, 200, 60, 80, 50),
        (GREEN, 200, 140, 64, 32),
    ):
        picture.paste(colour, (x, y, x + width, y + height))
    return picture


def saved(picture: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, file_format, **options)
    return buffer.getvalue()


def given(name: str, data: bytes) -> dict[str, Any]:
    """A file as Playwright lets a visitor choose it."""
    return {"name": name, "mimeType": "", "buffer": data}


PNG = saved(drawing(), "PNG")


def choose(page: "Page", *files: dict[str, Any]) -> None:
    """Choose photos and wait for what becomes of them."""
    before = page.locator("#strip li").count()
    page.set_input_files("#files", list(files))
    page.locator(f":nth-match(#strip li:is(.scored, .failed), {before + len(files)})").wait_for()


def set_threshold(page: "Page", score: float) -> None:
    page.locator("#threshold").fill(str(score))


def scored_directly(url: str, *images: bytes | str) -> httpx.Response:
    rows = [i if isinstance(i, str) else base64.b64encode(i).decode() for i in images]
    table = {"input_data": {"columns": ["image"], "data": rows}}
    return httpx.post(f"{url}/score", json=table, trust_env=False)


def on_screen(page: "Page", *, masks: bool) -> npt.NDArray[np.uint8]:
    """The photo's pixels as they are painted, with masks or without; no outlines, no labels."""
    page.evaluate(
        """(masks) => {
            const hide = (element) => (element.style.visibility = 'hidden');
            document.querySelectorAll('#labels, #masks .outline').forEach(hide);
            document.getElementById('masks').style.visibility = masks ? 'visible' : 'hidden';
            document.querySelectorAll('#masks g').forEach((g) => (g.style.transition = 'none'));
        }""",
        masks,
    )
    box = page.locator("#photo").bounding_box()
    page.mouse.move(0, 0)
    with Image.open(io.BytesIO(page.screenshot(clip=box))) as shot:
        return np.asarray(shot.convert("RGB"))


def tinted(page: "Page") -> Mask:
    """Which pixels on the screen a mask covers."""
    bare, covered = on_screen(page, masks=False), on_screen(page, masks=True)
    return np.abs(bare.astype(int) - covered).max(axis=2) > 8


@contextmanager
def photo_host() -> Iterator[str]:
    """Another server; it lets pages read its photos below /photos/open/ only."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("content-type", "image/png")
            self.send_header("content-length", str(len(PNG)))
            if self.path.startswith("/photos/open/"):
                self.send_header("access-control-allow-origin", "*")
            self.end_headers()
            self.wfile.write(PNG)

        def log_message(self, *_: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
