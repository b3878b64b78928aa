import json
from typing import Any

import pytest

from service.errors import BadRequestError
from service.settings import Settings
from service.web.schemas import images_of_body, images_of_query


def parse(request: Any) -> list[str]:
    return images_of_body(json.dumps(request).encode(), Settings())


def table(**fields: Any) -> dict[str, Any]:
    return {"input_data": {"columns": ["image"], "data": ["a", "b"]} | fields}


ACCEPTED = {
    "strings": table(),
    "lists of one string": table(data=[["a"], ["b"]]),
    "both forms": table(data=[["a"], "b"]),
    "index of numbers": table(index=[0, 1]),
    "index of strings": table(index=["x", "y"]),
    "index with duplicates": table(index=[5, 5]),
    "index null": table(index=None),
    "an extra column": table(columns=["image", "text_prompt"], data=[["a", None], ["b", "x"]]),
    "an extra column before": table(columns=["id", "image"], data=[[1, "a"], [2, "b"]]),
    "the column twice": table(columns=["image", "image"], data=[["a", "x"], ["b", "y"]]),
    "an extra key at the top": table() | {"extra": {"deep": [1]}},
    "params null": table() | {"params": None},
    "params empty": table() | {"params": {}},
    "params known": table() | {"params": {"text_prompt": None, "custom_entities": False}},
    "params unknown": table() | {"params": {"threshold": 0.5}},
}


@pytest.mark.parametrize("request_body", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_every_form_azure_takes_gives_the_images_in_row_order(request_body: Any) -> None:
    assert parse(request_body) == ["a", "b"]


def test_of_a_key_given_twice_the_last_counts() -> None:
    first, last = json.dumps(table(data=["x"])), json.dumps(table(data=["y"]))

    assert images_of_body((first[:-1] + "," + last[1:]).encode(), Settings()) == ["y"]


AZURES_WORDS = {
    b"": "POST body is empty. Expecting a JSON dictionary.",
    b"[]": "POST body should be a JSON dictionary.",
    b'"text"': "POST body should be a JSON dictionary.",
    b"null": "POST body should be a JSON dictionary.",
    b"7": "POST body should be a JSON dictionary.",
    b"{}": "A value is not provided for the 'input_data' parameter.",
    b'{"inputs": []}': "A value is not provided for the 'input_data' parameter.",
}


@pytest.mark.parametrize(("body", "message"), AZURES_WORDS.items())
def test_what_azure_refuses_with_400_gets_azures_words(body: bytes, message: str) -> None:
    with pytest.raises(BadRequestError) as caught:
        images_of_body(body, Settings())

    assert str(caught.value) == message


@pytest.mark.parametrize(
    "body",
    [
        b"hello",
        b"{",
        b'{"input_data": }',
        b"{'input_data': 1}",
        b"\xff\xfe\x00",
        b'{"a": "\xff"}',
        b'{"a": "\\ud800"}',
        b"{} {}",
        b"1" * 100_000 + b"e",
    ],
    ids=lambda body: repr(body[:12]),
)
def test_what_is_no_json_gets_azures_words_and_the_parsers_reason(body: bytes) -> None:
    with pytest.raises(BadRequestError, match=r"^POST body could not be decoded as JSON: \w.+"):
        images_of_body(body, Settings())


REFUSED = {
    "input_data null": ({"input_data": None}, "input_data: Input should be an object"),
    "input_data a list": ({"input_data": ["a"]}, "input_data: Input should be an object"),
    "input_data a string": ({"input_data": "{}"}, "input_data: Input should be an object"),
    "columns missing": ({"input_data": {"data": ["a"]}}, "input_data.columns: Field required"),
    "data missing": ({"input_data": {"columns": ["image"]}}, "input_data.data: Field required"),
    "dict of columns": ({"input_data": {"image": ["a"]}}, "input_data.columns: Field required"),
    "unknown key": (table(rows=[]), "input_data: unknown key 'rows'; expected columns"),
    "columns a string": (table(columns="image"), "input_data.columns: Input should be a valid a"),
    "columns of numbers": (table(columns=[1]), "input_data.columns.0: Input should be a valid s"),
    "data a string": (table(data="a"), "input_data.data: Input should be a valid array"),
    "data empty": (table(data=[]), "input_data.data: no rows, expected at least one image"),
    "index a string": (table(index="0"), "input_data.index: Input should be a valid array"),
    "index too short": (table(index=[0]), "input_data.index: 1 values for 2 rows of data"),
    "index empty": (table(index=[]), "input_data.index: 0 values for 2 rows of data"),
    "wrong column": (table(columns=["img"]), "expected a column named 'image', got ['img']"),
    "wrong case": (table(columns=["Image"]), "expected a column named 'image', got ['Image']"),
    "no column": (table(columns=[]), "expected a column named 'image', got []"),
    "ragged rows": (table(data=[["a"], ["b", "c"]]), "row 1: 2 values for 1 columns"),
    "empty row": (table(data=["a", []]), "row 1: 0 values for 1 columns"),
    "row too short": (
        table(columns=["image", "id"], data=[["a", 1], "b"]),
        "row 1: 1 values for 2 columns",
    ),
    "null": (table(data=["a", None]), "row 1: expected the image as a base64 string, got null"),
    "number": (table(data=[["a"], [7]]), "row 1: expected the image as a base64 string, got a n"),
    "boolean": (table(data=[True]), "row 0: expected the image as a base64 string, got a boolean"),
    "object": (table(data=[{"b64": "a"}]), "row 0: expected the image as a base64 string, got an"),
    "list in list": (table(data=[[["a"]]]), "row 0: expected the image as a base64 string, got a "),
    "params a list": (table() | {"params": [1]}, "params: Input should be an object"),
    "params of wrong type": (
        table() | {"params": {"custom_entities": "yes"}},
        "params.custom_entities: Input should be a valid boolean",
    ),
}


@pytest.mark.parametrize(("request_body", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_a_table_that_makes_no_sense_is_refused_with_place_and_reason(
    request_body: Any, message: str
) -> None:
    with pytest.raises(BadRequestError) as caught:
        parse(request_body)

    assert message in str(caught.value)


def test_a_message_does_not_repeat_much_of_what_the_client_sent() -> None:
    with pytest.raises(BadRequestError) as caught:
        parse(table(columns=["x" * 10_000]))

    assert len(str(caught.value)) < 150


def test_more_rows_than_the_limit_are_refused() -> None:
    with pytest.raises(BadRequestError, match="3 images, more than the limit of 2 a request"):
        images_of_body(
            json.dumps(table(data=["a"] * 3)).encode(), Settings(max_images_per_request=2)
        )


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
def test_other_encodings_of_json_are_read(encoding: str) -> None:
    assert images_of_body(json.dumps(table()).encode(encoding), Settings()) == ["a", "b"]


def test_a_query_gives_the_same_images_as_a_body() -> None:
    arguments = [("input_data", json.dumps(table()["input_data"])), ("extra", "no json")]

    assert images_of_query(arguments, Settings()) == ["a", "b"]


def test_a_query_without_the_table_gets_azures_words() -> None:
    with pytest.raises(BadRequestError, match="A value is not provided for the 'input_data'"):
        images_of_query([("data", "[]")], Settings())


@pytest.mark.parametrize(
    "arguments",
    [[("input_data", "no json")], [("input_data", "[" * 5000)], [("input_data", "{}")] * 2],
    ids=["text", "deep", "twice"],
)
def test_a_query_with_anything_else_is_refused(arguments: list[tuple[str, str]]) -> None:
    with pytest.raises(BadRequestError, match=r"^input_data: Input should be an object$"):
        images_of_query(arguments, Settings())
