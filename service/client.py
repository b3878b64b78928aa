"""Ask a running server from Python."""

import base64
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import httpx


class ScoreError(Exception):
    """The server refused, or could not be reached; the text says why."""


class RefusedError(ScoreError):
    """The server will not score these images; others it may."""


class Client:
    """A connection to one server; use it in a ``with`` block.

    Args:
        url: Of the server, with or without ``/score`` at its end.
        timeout_s: How long one request may take.
    """

    def __init__(self, url: str, *, timeout_s: float = 60) -> None:
        self._url = url.rstrip("/").removesuffix("/score") + "/score"
        self._http = httpx.Client(timeout=timeout_s)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._http.close()

    def score(self, images: Sequence[bytes]) -> list[dict[str, Any]]:
        """Score encoded pictures (JPEG, PNG ...); one ``{"boxes": [...]}`` for each, in order.

        Raises:
            ScoreError: The server answered with anything but success, or not at all.
        """
        rows = [base64.b64encode(image).decode() for image in images]
        body = {"input_data": {"columns": ["image"], "data": rows}}
        try:
            response = self._http.post(self._url, json=body)
        except httpx.HTTPError as error:
            raise ScoreError(f"{self._url} cannot be reached: {error}") from error
        if response.is_success:
            answers: list[dict[str, Any]] = response.json()
            return answers
        refused = response.is_client_error and response.status_code != httpx.codes.NOT_FOUND
        kind = RefusedError if refused else ScoreError
        raise kind(f"{self._url} answered {response.status_code}: {_message(response)}")


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json()["message"])
    except (ValueError, KeyError, TypeError):
        return response.text[:200]
