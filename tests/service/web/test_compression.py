import gzip

import pytest
from starlette.responses import Response

from service.web.compression import compressed

pytestmark = pytest.mark.anyio

LARGE = b'{"polygon": [0.5, 0.25]}' * 1000


@pytest.mark.parametrize(
    "accepted",
    ["gzip", "gzip, deflate", "br;q=1.0, GZIP;q=0.5", "deflate, gzip ; q=1", "gzip;q=0.01"],
)
async def test_a_large_answer_is_compressed_for_who_takes_that(accepted: str) -> None:
    response = await compressed(Response(LARGE, media_type="application/json"), accepted)

    assert gzip.decompress(response.body) == LARGE
    assert response.headers["content-encoding"] == "gzip"
    assert response.headers["content-length"] == str(len(response.body))
    assert response.headers["vary"] == "Accept-Encoding"


@pytest.mark.parametrize(
    "accepted", ["", "identity", "br", "gzip;q=0", "gzip; q=0.000, br", "x-gzip-not", "notgzip"]
)
async def test_others_get_it_as_it_is(accepted: str) -> None:
    response = await compressed(Response(LARGE), accepted)

    assert response.body == LARGE
    assert "content-encoding" not in response.headers
    assert response.headers["vary"] == "Accept-Encoding"


async def test_a_small_answer_is_not_worth_it() -> None:
    response = await compressed(Response(b"[]"), "gzip")

    assert response.body == b"[]"
    assert "vary" not in response.headers
