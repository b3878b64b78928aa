import json
import time

import pytest

from service.errors import BadRequestError
from service.web.json_text import as_utf8, check_structure

TEXT = '{"label": "café"}'


@pytest.mark.parametrize(
    "encoding",
    ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"],
)
def test_every_unicode_encoding_of_json_is_understood(encoding: str) -> None:
    assert as_utf8(TEXT.encode(encoding)) == TEXT.encode()


@pytest.mark.parametrize("body", [b"\xff\xfe{", b"\x00{\xd8\x00", b"\xff\xfe\x00\xd8"], ids=repr)
def test_broken_utf_16_is_refused_as_undecodable(body: bytes) -> None:
    with pytest.raises(BadRequestError, match=r"^POST body could not be decoded as JSON: "):
        as_utf8(body)


def nested(levels: int, inside: str = "1") -> bytes:
    return ("[" * levels + inside + "]" * levels).encode()


def test_nesting_up_to_the_limit_is_taken() -> None:
    check_structure(nested(5), 5)


@pytest.mark.parametrize(
    "text",
    [nested(6), b'{"a":' * 6 + b"1" + b"}" * 6, b'[{"]":' * 3 + b"1" + b"}]" * 3],
    ids=["lists", "objects", "brackets in keys"],
)
def test_nesting_beyond_it_is_refused(text: bytes) -> None:
    with pytest.raises(BadRequestError, match="nested more than 5 levels"):
        check_structure(text, 5)


@pytest.mark.parametrize(
    "text", ["[" * 40, 'a"[' * 20, '\\"[' * 20, "\\", '\\\\"' + "[" * 40], ids=repr
)
def test_brackets_inside_strings_are_no_nesting(text: str) -> None:
    check_structure(json.dumps([text]).encode(), 5)


def test_brackets_side_by_side_are_no_nesting() -> None:
    check_structure(json.dumps([["row"]] * 1000).encode(), 5)


@pytest.mark.parametrize(
    "text",
    [b"[" + b"0," * 100_001 + b"0]", b"[" * 100_001, b'["' + b'\\"' * 200_000 + b'"]'],
    ids=["numbers", "brackets", "quotes"],
)
def test_more_values_than_any_request_needs_are_refused(text: bytes) -> None:
    with pytest.raises(BadRequestError, match="more than 100000 JSON values"):
        check_structure(text, 10**6)


@pytest.mark.parametrize(
    "filling", [b" ", b"1", b"]", b"\\"], ids=["space", "digits", "closing", "backslashes"]
)
def test_a_large_text_is_checked_in_no_time(filling: bytes) -> None:
    text = b"[" * 50 + b'"' + filling * 20_000_000 + b'"' + filling * 20_000_000
    started = time.process_time()

    with pytest.raises(BadRequestError):
        check_structure(text, 5)

    assert time.process_time() - started < 2  # a loop over the bytes takes many times as long
