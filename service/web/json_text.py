"""What is checked of a JSON text before a parser builds objects from it."""

import json

from service.errors import BadRequestError

UNDECODABLE = "POST body could not be decoded as JSON: "

# A request has a few values an image. As many as these cost a parser some milliseconds.
_MAX_VALUES = 100_000

_NO_STRUCTURE = bytes(set(range(256)) - set(b"[]{},"))
_BACKSLASH = ord("\\")


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

    Goes from quote to quote, so that images, which are long strings, are passed over quickly.

    Raises:
        BadRequestError: More values than any request needs, or nested too deeply.
    """
    depth = values = position = 0
    while position < len(text):
        quote = text.find(b'"', position)
        outside = text[position : quote if quote >= 0 else None]
        marks = outside.translate(None, delete=_NO_STRUCTURE)
        position, quotes = _end_of_string(text, quote) if quote >= 0 else (len(text), 0)
        values += len(marks) + quotes
        if values > _MAX_VALUES:
            raise BadRequestError(f"POST body has more than {_MAX_VALUES} JSON values")
        for mark in marks:
            depth += (mark in b"[{") - (mark in b"]}")
            if depth > max_depth:
                raise BadRequestError(f"POST body is nested more than {max_depth} levels deep")


def _end_of_string(text: bytes | bytearray, start: int) -> tuple[int, int]:
    """One past the quote that closes the string, and how many quotes were met on the way.

    A quote behind an odd number of backslashes belongs to the string.
    """
    for quotes in range(1, _MAX_VALUES):
        quote = text.find(b'"', start + 1)
        if quote < 0:
            break
        if text[quote - 1] != _BACKSLASH or _is_even_run(text[start + 1 : quote]):
            return quote + 1, quotes
        start = quote
    else:
        return len(text), _MAX_VALUES + 1
    return len(text), quotes


def _is_even_run(inside: bytes | bytearray) -> bool:
    return (len(inside) - len(inside.rstrip(b"\\"))) % 2 == 0
