import base64
import struct
import zlib
from collections.abc import Callable

import pytest
from PIL import Image

from service.errors import BadImageError
from service.protocol import EncodedImage
from service.settings import Settings
from service.web.budget import ByteBudget
from service.web.images import read_image

pytestmark = pytest.mark.anyio

Encode = Callable[..., bytes]


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares its size and holds nothing."""
    header = struct.pack("!IIBBBBB", width, height, 8, 0, 0, 0, 0)
    crc = zlib.crc32(b"IHDR" + header)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack("!I4s13sI", 13, b"IHDR", header, crc)
        + b"\x00\x00\x00\x00IDAT\x35\xaf\x06\x1e"
    )


class FakeFetcher:
    """Answers any address with one file, and remembers what it was asked for."""

    def __init__(self, data: bytes = b"") -> None:
        self.data = data
        self.asked: list[str] = []

    async def fetch(self, url: str, *, hold: Callable[[int], None]) -> bytes:
        self.asked.append(url)
        hold(len(self.data))
        return self.data


async def read(
    text: str, settings: Settings | None = None, fetcher: FakeFetcher | None = None
) -> EncodedImage:
    with ByteBudget(10**9).account() as account:
        return await read_image(text, settings or Settings(), fetcher or FakeFetcher(), account)


async def refusal(text: str, settings: Settings | None = None) -> str:
    with pytest.raises(BadImageError) as caught:
        await read(text, settings)
    return str(caught.value)


@pytest.fixture(params=[0, 1, 2], ids=lambda n: f"{n} bytes over")
def image_file(request: pytest.FixtureRequest, encode: Encode) -> bytes:
    """Of every length modulo 3, so that base64 ends in none, one or two equals signs."""
    data = encode(Image.new("RGB", (7, 5), (251, 239, 190)), "PNG")
    return data + b"\x00" * (-len(data) % 3 + request.param)


SPELLINGS = {
    "plain": b64,
    "wrapped at 76": lambda data: base64.encodebytes(data).decode(),
    "wrapped with CRLF": lambda data: base64.encodebytes(data).decode().replace("\n", "\r\n"),
    "with spaces and tabs": lambda data: "  " + b64(data)[:9] + "\t " + b64(data)[9:] + " ",
    "unpadded": lambda data: b64(data).rstrip("="),
    "with surplus padding": lambda data: b64(data) + "====",
    "URL-safe": lambda data: base64.urlsafe_b64encode(data).decode(),
    "URL-safe and unpadded": lambda data: base64.urlsafe_b64encode(data).decode().rstrip("="),
    "data URI": lambda data: "data:image/png;base64," + b64(data),
    "data URI, wrapped": lambda data: (
        "data:image/png;base64,\n" + base64.encodebytes(data).decode()
    ),
    "data URI with parameters": lambda data: "DATA:image/png;name=a.png;BASE64," + b64(data),
    "data URI without type": lambda data: "data:;base64," + b64(data),
}


@pytest.mark.parametrize("spell", SPELLINGS.values(), ids=SPELLINGS.keys())
async def test_every_spelling_of_base64_gives_the_same_bytes(
    image_file: bytes, spell: Callable[[bytes], str]
) -> None:
    image = await read(spell(image_file))

    assert image == EncodedImage(image_file, width=7, height=5)


async def test_the_spellings_differ_for_these_bytes(image_file: bytes) -> None:
    assert {"+", "/"} & {*b64(image_file)}


@pytest.mark.parametrize(
    "text",
    ["hello world!", "é" * 8, "AAAA*AAA", "A", "AAAAA", "AA==AAAA", "data:image/png,AAAA", "{}"],
)
async def test_what_is_no_base64_is_refused(text: str) -> None:
    assert await refusal(text) == "not a base64-encoded image"


@pytest.mark.parametrize("text", ["", "  \n", "====", "data:image/png;base64,"])
async def test_an_empty_image_is_refused(text: str) -> None:
    assert await refusal(text) == "the image is empty"


@pytest.mark.parametrize("text", ["http://example.org/a", " HTTPS://example.org/a?b=c\n"])
async def test_an_address_is_fetched(text: str, photo: bytes) -> None:
    fetcher = FakeFetcher(photo)

    image = await read(text, fetcher=fetcher)

    assert image == EncodedImage(photo, width=64, height=48)
    assert fetcher.asked == [text.strip()]


async def test_what_is_fetched_is_held_by_the_request(photo: bytes) -> None:
    with ByteBudget(10**6).account() as account:
        await read_image("http://example.org/a", Settings(), FakeFetcher(photo), account)

        assert account.held == len(photo)


async def test_what_is_fetched_is_judged_like_any_image() -> None:
    with pytest.raises(BadImageError, match="not a JPEG"):
        await read("http://example.org/a", fetcher=FakeFetcher(b"<html>"))


async def test_a_large_string_is_decoded_beside_the_event_loop(encode: Encode) -> None:
    noise = encode(Image.effect_noise((1200, 1200), 90), "PNG")

    assert await read(b64(noise)) == EncodedImage(noise, width=1200, height=1200)


async def test_an_image_that_is_too_thin_is_refused() -> None:
    settings = Settings(max_image_aspect=10)

    assert (await read(b64(png_header(10, 100)), settings)).height == 100
    assert await refusal(b64(png_header(101, 10)), settings) == (
        "the image is 101x10 pixels, one side more than 10 times the other"
    )


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF"])
async def test_the_header_of_every_known_format_is_read(encode: Encode, file_format: str) -> None:
    data = encode(Image.new("RGB", (30, 20)), file_format)

    image = await read(b64(data))

    assert (image.width, image.height) == (30, 20)


@pytest.mark.parametrize(
    "data",
    [b"hello", b"%PDF-1.7", b"%!PS-Adobe-3.0 EPSF", b"<svg/>", b"P6 1 1 255 abc", b"\x00" * 100],
    ids=repr,
)
async def test_formats_outside_the_list_are_refused(data: bytes) -> None:
    expected = "not a JPEG, PNG, BMP, TIFF, WebP or GIF image"

    assert await refusal(b64(data)) == expected


@pytest.mark.parametrize(
    ("file_format", "magic"),
    [
        ("JPEG", b"\xff\xd8\xff"),
        ("PNG", b"\x89PNG\r\n\x1a\n"),
        ("BMP", b"BM"),
        ("TIFF", b"II*\x00"),
        ("WEBP", b"RIFF\x00\x00\x00\x00WEBP"),
        ("GIF", b"GIF89a"),
    ],
)
async def test_a_file_that_ends_within_its_header_is_refused(
    file_format: str, magic: bytes
) -> None:
    expected = f"the {file_format} header is damaged, cut short or declares no pixels"

    assert await refusal(b64(magic)) == expected


@pytest.mark.parametrize(("width", "height"), [(0, 5), (5, 0), (0, 0)])
async def test_an_image_without_pixels_is_refused(width: int, height: int) -> None:
    message = await refusal(b64(png_header(width, height)))

    assert message == "the PNG header is damaged, cut short or declares no pixels"


async def test_a_side_over_the_limit_is_refused() -> None:
    message = await refusal(b64(png_header(10, 40_000)))

    assert message == "the image is 10x40000 pixels, more than the limit of 16384 a side"


async def test_an_area_over_the_limit_is_refused() -> None:
    message = await refusal(b64(png_header(10_000, 10_000)))

    assert message.endswith("10000x10000 pixels, more than the limit of 50000000 in all")


async def test_the_limit_on_the_area_is_the_settings_alone() -> None:
    generous = Settings(max_image_pixels=16_384**2)

    image = await read(b64(png_header(16_384, 16_384)), generous)

    assert image.width == 16_384


async def test_an_odd_header_is_no_reason_to_refuse_or_to_warn(encode: Encode) -> None:
    jpeg = encode(Image.new("RGB", (8, 8)), "JPEG")
    strange_pictures_index = b"\xff\xe2\x00\x0cMPF\x00garbag"

    image = await read(b64(jpeg[:2] + strange_pictures_index + jpeg[2:]))

    assert image.width == 8


@pytest.mark.parametrize("side", [1, 16_384])
async def test_an_image_at_the_limits_is_accepted(side: int) -> None:
    image = await read(b64(png_header(side, 30)))

    assert (image.width, image.height) == (side, 30)


async def test_bytes_over_the_limit_are_refused(photo: bytes) -> None:
    settings = Settings(max_image_bytes=len(photo) - 1)

    message = await refusal(b64(photo), settings)

    assert message == (f"the image has {len(photo)} bytes, more than the limit of {len(photo) - 1}")


async def test_bytes_at_the_limit_are_accepted(photo: bytes) -> None:
    image = await read(b64(photo), Settings(max_image_bytes=len(photo)))

    assert image.data == photo


async def test_a_jpeg_of_too_many_scans_is_refused(encode: Encode) -> None:
    jpeg = encode(Image.effect_noise((64, 64), 50).convert("RGB"), "JPEG", progressive=True)
    last = jpeg.rindex(b"\xff\xda")
    bomb = jpeg[:-2] + jpeg[last:-2] * 100 + jpeg[-2:]

    message = await refusal(b64(bomb))

    assert message == "the JPEG has 110 scans, more than the limit of 64 for its size"
