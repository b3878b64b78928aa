"""What the bad and the odd send, over a real socket, to the worker's own pipeline."""

import asyncio
import base64
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import orjson
import pytest
from PIL import Image

from service.settings import Settings

pytestmark = pytest.mark.anyio

JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def url(serve_in_thread: Callable, stages_dispatcher) -> Iterator[str]:
    with serve_in_thread(Settings(max_body_bytes=2_000_000), stages_dispatcher) as url:
        yield url


@pytest.fixture
def photographs(encode: Callable[..., bytes]) -> dict[str, bytes]:
    """Pictures of every kind, all of them showing the same grey gradient."""
    grey = Image.linear_gradient("L").resize((64, 48))
    rgb = grey.convert("RGB")
    return {
        "JPEG": encode(rgb, "JPEG"),
        "progressive JPEG": encode(rgb, "JPEG", progressive=True),
        "greyscale JPEG": encode(grey, "JPEG"),
        "CMYK JPEG": encode(rgb.convert("CMYK"), "JPEG"),
        "greyscale PNG": encode(grey, "PNG"),
        "palette PNG": encode(rgb.quantize(16), "PNG"),
        "one-bit PNG": encode(grey.convert("1"), "PNG"),
        "16-bit PNG": encode(Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), "PNG"),
        "RGBA PNG": encode(rgb.convert("RGBA"), "PNG"),
        "grey with alpha": encode(grey.convert("LA"), "PNG"),
        "GIF": encode(rgb, "GIF"),
        "animated GIF": encode(rgb, "GIF", save_all=True, append_images=[rgb.rotate(180)]),
        "BMP": encode(rgb, "BMP"),
        "TIFF": encode(rgb, "TIFF"),
        "16-bit TIFF": encode(Image.fromarray(np.asarray(grey).astype(np.uint16) * 257), "TIFF"),
        "WebP": encode(rgb, "WEBP"),
        "1x1": encode(Image.new("RGB", (1, 1)), "PNG"),
        "2x1": encode(Image.new("RGB", (2, 1)), "PNG"),
        "JPEG with a tail": encode(rgb, "JPEG") + b"PK\x03\x04" * 100,
    }


@pytest.fixture
def troublemakers(encode: Callable[..., bytes]) -> dict[str, tuple[bytes, str]]:
    """Files that cannot be scored, each with what the answer must say."""
    noise = Image.effect_noise((64, 48), 80).convert("RGB")
    jpeg, png = encode(noise, "JPEG"), encode(noise, "PNG")
    broken = bytearray(png)
    broken[len(png) // 2] ^= 0xFF
    return {
        "text": (b"hello, world", "not a JPEG"),
        "HTML": (b"<html></html>", "not a JPEG"),
        "executable": (b"\x7fELF" + bytes(100), "not a JPEG"),
        "truncated JPEG": (jpeg[: len(jpeg) // 2], "truncated or damaged"),
        "JPEG without its last byte": (jpeg[:-1], "truncated or damaged"),
        "JPEG of three bytes": (jpeg[:3], "cut short"),
        "truncated PNG": (png[: len(png) // 2], "truncated or damaged"),
        "PNG with a flipped byte": (bytes(broken), "truncated or damaged"),
        "PNG cut in its header": (png[:20], "cut short"),
        "zero-size PNG": (png_declaring(png, 0, 48), "declares no pixels"),
        "PNG that declares 2^31 squared": (
            png_declaring(png, 2**31 - 1, 2**31 - 1),
            "more than the limit",
        ),
        "10x40000": (encode(Image.new("L", (10, 40_000)), "PNG"), "more than the limit of 16384"),
        "1x9000": (encode(Image.new("L", (1, 9000)), "PNG"), "one side more than 1000 times"),
        "float TIFF": (encode(Image.new("F", (8, 8)), "TIFF"), "32 bits"),
        "PPM": (encode(noise, "PPM"), "not a JPEG"),
    }


def png_declaring(png: bytes, width: int, height: int) -> bytes:
    """The same file under another size, with a checksum to match."""
    header = b"IHDR" + struct.pack("!II", width, height) + png[24:29]
    return png[:12] + header + struct.pack("!I", zlib.crc32(header)) + png[33:]


def one_row(value: Any) -> dict[str, Any]:
    return {"input_data": {"columns": ["image"], "data": [value]}}


BAD_BODIES: dict[str, bytes] = {
    "empty": b"",
    "not JSON": b"hello",
    "half JSON": b'{"input_data": {"columns": ["image"], "data": ["',
    "not UTF-8": b'{"input_data": "\xff\xfe"}',
    "a list": b"[]",
    "a number": b"1",
    "null": b"null",
    "no input_data": b'{"data": []}',
    "input_data null": b'{"input_data": null}',
    "deep nesting": b'{"input_data":' + b"[" * 50_000,
    "deep nesting in data": b'{"input_data":{"columns":["image"],"data":' + b"[" * 50_000,
    "a number without end": b'{"input_data":' + b"9" * 500_000,
    "wrong column": orjson.dumps({"input_data": {"columns": ["img"], "data": ["AAAA"]}}),
    "ragged rows": orjson.dumps(
        {"input_data": {"columns": ["image"], "data": [["A"], ["A", "B"]]}}
    ),
    "empty data": orjson.dumps({"input_data": {"columns": ["image"], "data": []}}),
    "unknown key": orjson.dumps({"input_data": {"columns": ["image"], "data": ["A"], "x": 1}}),
    "not base64": orjson.dumps(one_row("this is no base64!")),
    "a URL": orjson.dumps(one_row("http://169.254.169.254/latest/meta-data")),
    "a file": orjson.dumps(one_row("file:///etc/passwd")),
    "a number as image": orjson.dumps(one_row(5)),
    "null as image": orjson.dumps(one_row(None)),
    "an object as image": orjson.dumps(one_row({"image_base64": "AAAA"})),
    "an empty image": orjson.dumps(one_row("")),
}


@pytest.mark.parametrize("bad_body", BAD_BODIES.values(), ids=BAD_BODIES.keys())
async def test_a_bad_body_gets_a_400_that_says_why(url: str, bad_body: bytes) -> None:
    async with httpx.AsyncClient(timeout=5) as client:
        response = await client.post(f"{url}/score", content=bad_body, headers=JSON)

    assert response.status_code == 400
    message = response.json()["message"]
    assert 10 < len(message) <= 300
    assert "Error" not in message
    assert "service" not in message


async def test_every_kind_of_picture_is_scored(
    url: str, photographs: dict[str, bytes], body: Callable[..., Any]
) -> None:
    async with httpx.AsyncClient(timeout=5) as client:
        answers = {
            name: await client.post(f"{url}/score", json=body(data))
            for name, data in photographs.items()
        }

    assert {name: answer.status_code for name, answer in answers.items()} == dict.fromkeys(
        photographs, 200
    )


async def test_every_unscorable_file_gets_a_400_that_names_its_row_and_reason(
    url: str, troublemakers: dict[str, tuple[bytes, str]], photo: bytes, body: Callable[..., Any]
) -> None:
    async with httpx.AsyncClient(timeout=5) as client:
        for name, (data, reason) in troublemakers.items():
            response = await client.post(f"{url}/score", json=body(photo, data))

            assert response.status_code == 400, name
            message = response.json()["message"]
            assert message.startswith("row 1: "), name
            assert reason in message, name


async def test_good_requests_among_bad_ones_are_all_answered(
    url: str,
    troublemakers: dict[str, tuple[bytes, str]],
    photo: bytes,
    body: Callable[..., Any],
) -> None:
    bad = [orjson.dumps(body(data)) for data, _ in troublemakers.values()]
    bad += BAD_BODIES.values()
    good = orjson.dumps(body(photo))
    mixed = [content for one in bad for content in (one, good)]

    async with httpx.AsyncClient(timeout=10) as client:
        responses = await asyncio.gather(
            *(client.post(f"{url}/score", content=one, headers=JSON) for one in mixed)
        )

    assert {response.status_code for response in responses[::2]} == {400}
    assert {response.status_code for response in responses[1::2]} == {200}
    assert len({response.content for response in responses[1::2]}) == 1


async def test_a_body_over_the_limit_is_a_413_in_json(url: str) -> None:
    async with httpx.AsyncClient(timeout=5) as client:
        response = await client.post(f"{url}/score", content=b" " * 2_000_001, headers=JSON)

    assert response.status_code == 413
    assert "more than the limit" in response.json()["message"]


@pytest.mark.parametrize("content_type", [None, "text/plain", "image/jpeg"])
async def test_a_body_that_is_not_declared_as_json_is_a_415(
    url: str, content_type: str | None, photo: bytes
) -> None:
    headers = {"content-type": content_type} if content_type else {}
    async with httpx.AsyncClient(timeout=5) as client:
        response = await client.post(f"{url}/score", content=photo, headers=headers)

    assert response.status_code == 415
    assert response.json() == {"message": "Expects Content-Type to be application/json"}


async def test_a_gzipped_body_is_a_415(url: str) -> None:
    headers = JSON | {"content-encoding": "gzip"}
    async with httpx.AsyncClient(timeout=5) as client:
        response = await client.post(f"{url}/score", content=b"\x1f\x8b\x08", headers=headers)

    assert response.status_code == 415


async def test_azures_line_wrapped_base64_is_taken(url: str, photo: bytes) -> None:
    wrapped = base64.encodebytes(photo).decode()
    async with httpx.AsyncClient(timeout=5) as client:
        response = await client.post(f"{url}/score", json=one_row([wrapped]))

    assert response.status_code == 200
    assert response.json()[0]["boxes"][0]["label"] == "person"
