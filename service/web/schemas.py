"""The body of ``/score``: Azure's ``input_data`` table, read from raw bytes."""

from typing import Any

from pydantic import BaseModel, ConfigDict, StrictBool, StrictStr, ValidationError
from pydantic_core import ErrorDetails

from service.errors import BadRequestError

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


def parse_images(body: bytes | bytearray) -> list[str]:
    """The image column of a request body, one string a row, in the order of the rows.

    Raises:
        BadRequestError: The body is no such table; the message names the row where there is one.
    """
    if not body:
        raise BadRequestError("POST body is empty. Expecting a JSON dictionary.")
    try:
        table = ScoreRequest.model_validate_json(body).input_data
    except ValidationError as error:
        raise BadRequestError(_explain(error.errors(include_url=False)[0])) from None
    return _image_column(table)


def _explain(error: ErrorDetails) -> str:
    """Azure's own words where it has some."""
    match error:
        case {"type": "json_invalid", "ctx": {"error": detail}}:
            return f"POST body could not be decoded as JSON: {detail}"
        case {"loc": ()}:
            return "POST body should be a JSON dictionary."
        case {"type": "missing", "loc": ("input_data",)}:
            return "A value is not provided for the 'input_data' parameter."
        case {"type": "extra_forbidden", "loc": ("input_data", key)}:
            return f"input_data: unknown key {_short(key)}; expected columns, index and data"
        case _:
            return f"{'.'.join(map(str, error['loc']))}: {error['msg']}"


def _image_column(table: InputData) -> list[str]:
    if IMAGE_COLUMN not in table.columns:
        raise BadRequestError(
            f"input_data.columns: expected a column named 'image', got {_short(table.columns)}"
        )
    if not table.data:
        raise BadRequestError("input_data.data: no rows, expected at least one image")
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
