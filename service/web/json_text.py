"""What is checked of a JSON text before a parser builds objects from it."""

import json

from service.errors import BadRequestError

UNDECODABLE = "POST body could not be decoded as JSON: "

# A request has a few values an image. As many as these cost a parser some milliseconds.
_MAX_VALUES = 100_000

_NO_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


def as_utf8(body: bytes | bytearray) -> bytes | bytearray:
    """The text in UTF-8, without byte order mark; UTF-16 and UTF-32 show in the first bytes."""
    encoding = json.detect_encoding(bytes(body[:4]))
    if encoding == "utf-8":
        return body
    try:
        return body.decode(encoding).encode()
    except UnicodeDecodeError:
        raise BadRequestError(f"{UNDECODABLE}it is not {encoding}") from None


def check_structure(text: bytes | bytearray, max_depth: int) -> None:
    """Refuse a text whose objects would cost far more memory than its bytes.

    Raises:
        BadRequestError: More values than any request needs, or nested too deeply.
    """
    openings = text.count(b"[") + text.count(b"{")
    closings = text.count(b"]") + text.count(b"}")
    if openings + closings + text.count(b",") + text.count(b'"') // 2 > _MAX_VALUES:
        raise BadRequestError(f"POST body has more than {_MAX_VALUES} JSON values")
    if openings > max_depth and _depth(text) > max_depth:
        raise BadRequestError(f"POST body is nested more than {max_depth} levels deep")


def _depth(text: bytes | bytearray) -> int:
    """The deepest nesting of brackets that stand outside strings."""
    depth = deepest = position = 0
    while True:
        quote = text.find(b'"', position)
        outside = text[position : quote if quote >= 0 else None]
        for bracket in outside.translate(None, delete=_NO_BRACKETS):
            depth += 1 if bracket in b"[{" else -1
            deepest = max(deepest, depth)
        if quote < 0:
            return deepest
        position = _end_of_string(text, quote + 1)


def _end_of_string(text: bytes | bytearray, position: int) -> int:
    """One past the quote that closes the string; quotes behind odd backslashes do not."""
    while (quote := text.find(b'"', position)) >= 0:
        before = text[position:quote]
        if (len(before) - len(before.rstrip(b"\\"))) % 2 == 0:
            return quote + 1
        position = quote + 1
    return len(text)
