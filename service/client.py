"""Ask a running server from Python."""

import base64
import email.utils
import itertools
import random
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Self

import httpx
import orjson

# Too many requests, bad gateway, unavailable, gateway timeout: all may pass.
_PASSING = {429, 502, 503, 504}
# Who asks, or where, is wrong, whatever the image; too many requests are nobody's fault.
_NOT_THE_IMAGES_FAULT = {401, 403, 404, 429}
# Seconds to wait where no Retry-After says so, doubled each time, and the most of them.
_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 15


class ScoreError(Exception):
    """The server refused, or could not be reached; the text says why."""


class RefusedError(ScoreError):
    """The server will not score these images; others it may."""


class Client:
    """A connection to one server; use it in a ``with`` block, from as many threads as you like.

    What may pass is tried again: an overloaded or restarting server, after as long as its
    ``Retry-After`` asks for, and a connection that broke off. Scoring changes nothing on the
    server, so a repeated request does no harm. A server that cannot be reached at all is an
    error at once, unless it has answered before.

    Args:
        url: Of the server, with or without ``/score`` at its end.
        timeout_s: Longest silence of the server within one try.
        deadline_s: Seconds from a request, within which the last try begins.
        retries: Most tries after the first.
        api_key: Sent as a bearer token, as Azure's endpoints want it.
    """

    def __init__(
        self,
        url: str,
        *,
        timeout_s: float = 60,
        deadline_s: float = 180,
        retries: int = 10,
        api_key: str | None = None,
    ) -> None:
        self._url = url.rstrip("/").removesuffix("/score") + "/score"
        self._deadline_s = deadline_s
        self._retries = retries
        self._has_answered = False
        headers = {"content-type": "application/json"}
        if api_key is not None:
            headers["authorization"] = f"Bearer {api_key}"
        self._http = httpx.Client(timeout=timeout_s, headers=headers)

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
        response = self._post({"input_data": {"columns": ["image"], "data": rows}})
        if response.is_success:
            return _answers(response, len(images))
        refused = response.is_client_error and response.status_code not in _NOT_THE_IMAGES_FAULT
        kind = RefusedError if refused else ScoreError
        raise kind(f"{self._url} answered {response.status_code}: {_message(response)}")

    def _post(self, body: object) -> httpx.Response:
        """The first answer worth having, or the last one that there was time for."""
        deadline = time.monotonic() + self._deadline_s
        content = orjson.dumps(body)
        for attempt in itertools.count():
            outcome = self._post_once(content)
            wait_s = self._wait_s(outcome, attempt)
            if wait_s is None or time.monotonic() + wait_s > deadline:
                break
            time.sleep(wait_s)
        if isinstance(outcome, httpx.HTTPError):
            raise ScoreError(f"{self._url} cannot be reached: {outcome}") from outcome
        return outcome

    def _post_once(self, content: bytes) -> httpx.Response | httpx.HTTPError:
        try:
            response = self._http.post(self._url, content=content)
        except httpx.HTTPError as error:
            return error
        self._has_answered = True
        return response

    def _wait_s(self, outcome: httpx.Response | httpx.HTTPError, attempt: int) -> float | None:
        """Seconds until it is worth trying again; None where it is not."""
        if attempt == self._retries:
            return None
        wait_s = min(_FIRST_WAIT_S * 2**attempt, _LONGEST_WAIT_S) * random.uniform(0.5, 1)
        if isinstance(outcome, httpx.Response):
            passing = outcome.status_code in _PASSING
            return (_retry_after_s(outcome) or wait_s) if passing else None
        broke_off = isinstance(outcome, httpx.TransportError) and self._has_answered
        return wait_s if broke_off else None


def _retry_after_s(response: httpx.Response) -> float | None:
    """Seconds, which the header has as a number or as a date; None where it says neither."""
    text = response.headers.get("retry-after", "")
    try:
        return max(float(text), 0) if text[:1].isdigit() else _seconds_until(text)
    except ValueError:
        return None


def _seconds_until(date: str) -> float:
    return max(email.utils.parsedate_to_datetime(date).timestamp() - time.time(), 0)


def _answers(response: httpx.Response, images: int) -> list[dict[str, Any]]:
    """The parsed body, if it is one ``{"boxes": [...]}`` for each image."""
    try:
        answers = response.json()
        if len(answers) == images and all(isinstance(a["boxes"], list) for a in answers):
            return answers
    except (ValueError, TypeError, KeyError):
        pass
    raise ScoreError(
        f"{response.url} answered something else than instances: {response.text[:200]}"
    )


def _message(response: httpx.Response) -> str:
    try:
        return str(response.json()["message"])
    except (ValueError, KeyError, TypeError):
        return response.text[:200]
