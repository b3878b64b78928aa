"""Requests drawn at random, near the valid ones and far from them: none may end in a 5xx.

``make fuzz`` draws many more of them.
"""

import base64
import io
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from service.settings import Settings

EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "150"))
FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF")


def picture(file_format: str, mode: str) -> bytes:
    buffer = io.BytesIO()
    Image.effect_noise((40, 30), 70).convert(mode).save(buffer, file_format)
    return buffer.getvalue()


FILES = [picture(f, "RGB") for f in FORMATS]
FILES += [picture(f, mode) for f, mode in (("PNG", "P"), ("PNG", "LA"), ("JPEG", "CMYK"))]


@st.composite
def damaged_files(draw: st.DrawFn) -> bytes:
    """An image file with bytes overwritten, cut out or put in."""
    data = bytearray(draw(st.sampled_from(FILES)))
    for _ in range(draw(st.integers(0, 6))):
        start = draw(st.integers(0, len(data)) | st.integers(0, min(60, len(data))))
        end = start + draw(st.integers(0, 8))
        data[start:end] = draw(st.binary(max_size=12))
    return bytes(data)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
cells = (
    damaged_files().map(lambda data: base64.b64encode(data).decode())
    | st.text(max_size=40)
    | st.sampled_from(["http://", "https://[::1", "http://127.0.0.1/a.png", "data:,", "="])
    | json_values
)
rows = cells | st.lists(cells, max_size=3)
columns = st.just(["image"]) | st.lists(st.sampled_from(["image", "x", ""]), max_size=3)
tables = st.fixed_dictionaries(
    {"data": st.lists(rows, max_size=3) | json_values, "columns": columns | json_values},
    optional={"index": st.none() | json_values, "more": json_values},
)
documents = (
    st.fixed_dictionaries({"input_data": tables | json_values}, optional={"params": json_values})
    | json_values
)
bodies = documents.map(lambda document: json.dumps(document).encode()) | st.binary(max_size=200)
header_values = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=120).map(
    str.strip
)
headers = st.fixed_dictionaries(
    {"content-type": st.just("application/json") | header_values},
    optional=dict.fromkeys(
        ("x-request-id", "x-ms-client-request-id", "origin", "accept-encoding"), header_values
    ),
)


@pytest.fixture(scope="module")
def client(serve_in_thread: Callable, stages_dispatcher) -> Iterator[httpx.Client]:
    service = Settings(url_timeout_s=0.2, cors_origins="https://a,https://b")
    with (
        serve_in_thread(service, stages_dispatcher) as url,
        httpx.Client(base_url=url, timeout=20) as client,
    ):
        yield client


def assert_answered(answer: httpx.Response) -> None:
    content: Any = answer.json()
    if answer.status_code == 200:
        assert all(list(row) == ["boxes"] for row in content)
    else:
        assert 400 <= answer.status_code < 500
        assert list(content) == ["message"]
        assert 0 < len(content["message"]) <= 300


fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="FUZZ_EXAMPLES" not in os.environ,
    suppress_health_check=list(HealthCheck),
)


@fuzzed
@given(body=bodies, sent=headers)
def test_any_request_is_answered_by_a_result_or_a_message(
    client: httpx.Client, body: bytes, sent: dict[str, str]
) -> None:
    assert_answered(client.post("/score", content=body, headers=sent))


@fuzzed
@given(file=damaged_files())
def test_any_damaged_image_is_scored_or_refused(client: httpx.Client, file: bytes) -> None:
    row = base64.b64encode(file).decode()

    answer = client.post("/score", json={"input_data": {"columns": ["image"], "data": [row]}})

    assert_answered(answer)


@fuzzed
@given(arguments=st.lists(st.tuples(st.text(max_size=12), st.text(max_size=40)), max_size=3))
def test_any_query_is_answered(client: httpx.Client, arguments: list[tuple[str, str]]) -> None:
    assert_answered(client.get("/score", params=[("input_data", "{}"), *arguments]))
