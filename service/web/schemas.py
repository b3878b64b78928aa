"""The body of ``/score``: Azure's ``input_data`` table, read from raw bytes."""

from collections.abc import Iterable
from typing import Any

from pydantic import BaseModel, ConfigDict, StrictBool, StrictStr, ValidationError
from pydantic_core import ErrorDetails, from_json, to_json

from service.errors import BadRequestError
from service.settings import Settings
from service.web.json_text import UNDECODABLE, as_utf8, check_structure

IMAGE_COLUMN = "image"


class InputData(BaseModel):
    """A pandas table in "split" form. ``index`` names the rows and has no other effect."""

    model_config = ConfigDict(extra="forbid")

    columns: list[StrictStr]
    index: list[Any] | None = None
    data: list[Any]


class Params(BaseModel):
    """What Azure's model signature knows; neither has an effect on this kind of model."""

    text_prompt: StrictStr | None = None
    custom_entities: StrictBool = True


class ScoreRequest(BaseModel):
    """Other keys at the top level are ignored."""

    input_data: InputData
    params: Params | None = None


def images_of_body(body: bytes | bytearray, settings: Settings) -> list[str]:
    """The image column of a request body, one string a row, in the order of the rows.

    Raises:
        BadRequestError: The body is no such table, or has too many rows; the message names the
            row where there is one.
    """
    if not body:
        raise BadRequestError("POST body is empty. Expecting a JSON dictionary.")
    text = as_utf8(body)
    check_structure(text, settings.max_json_depth)
    try:
        table = ScoreRequest.model_validate_json(text).input_data
    except ValidationError as error:
        raise BadRequestError(_explain(error.errors(include_url=False)[0])) from None
    return _image_column(table, settings.max_images_per_request)


def images_of_query(arguments: Iterable[tuple[str, str]], settings: Settings) -> list[str]:
    """The same from a query, each of whose values may be JSON. Of a name given twice: a list.

    Raises:
        BadRequestError: As for a body.
    """
    values: dict[str, list[Any]] = {}
    for name, text in arguments:
        values.setdefault(name, []).append(_decoded(text))
    request = {name: found[0] if len(found) == 1 else found for name, found in values.items()}
    return images_of_body(to_json(request), settings)


def _decoded(text: str) -> Any:
    """The value that a JSON text stands for, or the text itself where it is none."""
    try:
        return from_json(text)
    except ValueError:
        return text


def _explain(error: ErrorDetails) -> str:
    """Azure's own words where it has some."""
    match error:
        case {"type": "json_invalid", "ctx": {"error": detail}}:
            return f"{UNDECODABLE}{detail}"
        case {"loc": ()}:
            return "POST body should be a JSON dictionary."
        case {"type": "missing", "loc": ("input_data",)}:
            return "A value is not provided for the 'input_data' parameter."
        case {"type": "extra_forbidden", "loc": ("input_data", key)}:
            return f"input_data: unknown key {_short(key)}; expected columns, index and data"
        case _:
            return f"{'.'.join(map(str, error['loc']))}: {error['msg']}"


def _image_column(table: InputData, max_rows: int) -> list[str]:
    if IMAGE_COLUMN not in table.columns:
        raise BadRequestError(
            f"input_data.columns: expected a column named 'image', got {_short(table.columns)}"
        )
    if not table.data:
        raise BadRequestError("input_data.data: no rows, expected at least one image")
    if len(table.data) > max_rows:
        raise BadRequestError(
            f"input_data.data: {len(table.data)} images, "
            f"more than the limit of {max_rows} a request"
        )
    if table.index is not None and len(table.index) != len(table.data):
        raise BadRequestError(
            f"input_data.index: {len(table.index)} values for {len(table.data)} rows of data"
        )
    column = table.columns.index(IMAGE_COLUMN)
    return [_cell(i, row, column, len(table.columns)) for i, row in enumerate(table.data)]


def _cell(number: int, row: Any, column: int, width: int) -> str:
    """One row's image string. A row is a list of values, or its one value without a list."""
    values = row if isinstance(row, list) else [row]
    if len(values) != width:
        raise BadRequestError(f"row {number}: {len(values)} values for {width} columns")
    if not isinstance(values[column], str):
        raise BadRequestError(
            f"row {number}: expected the image as a base64 string, got {_json_type(values[column])}"
        )
    return values[column]


def _json_type(value: Any) -> str:
    names = {dict: "an object", list: "a list", bool: "a boolean", type(None): "null"}
    return names.get(type(value), "a number")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"
