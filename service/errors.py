"""The ways a request can fail. One handler turns any of them into an answer."""

from typing import Self

MAX_MESSAGE_CHARS = 300


class ServiceError(Exception):
    """A failure with a status, a message for people and a stable reason for programs.

    ``run_failed`` tells whether scoring itself failed, rather than what came before it: Azure
    reports that in ``x-ms-run-function-failed``.
    """

    status = 500
    reason = "internal_error"
    run_failed = False
    retry_after_s: int | None = None

    def __init__(self, message: str) -> None:
        super().__init__(
            message if len(message) <= MAX_MESSAGE_CHARS else message[: MAX_MESSAGE_CHARS - 1] + "…"
        )


class InternalError(ServiceError):
    """A bug of ours; the log has the details."""

    reason = "bug"

    def __init__(self) -> None:
        super().__init__("An unexpected internal error occurred. Check the logs for more info.")


class BadRequestError(ServiceError):
    """The body is not what ``/score`` takes."""

    status = 400
    reason = "bad_request"


class BadImageError(ServiceError):
    """One image cannot be scored, through no fault of ours."""

    status = 400
    reason = "bad_image"

    def in_row(self, row: int) -> Self:
        """The same failure, saying which row of the request it is about."""
        return type(self)(f"row {row}: {self}")


class UnauthorizedError(ServiceError):
    """The request does not carry the key that this server asks for."""

    status = 401
    reason = "unauthorized"

    def __init__(self) -> None:
        super().__init__("expected the header Authorization: Bearer KEY with this server's key")


class BodyTimeoutError(ServiceError):
    """The body did not arrive in time."""

    status = 408
    reason = "body_timeout"


class BodyTooLargeError(ServiceError):
    """The body is larger than the limit."""

    status = 413
    reason = "body_too_large"


class UnsupportedMediaTypeError(ServiceError):
    """The body is not declared as plain JSON."""

    status = 415
    reason = "unsupported_media_type"


class QueueFullError(ServiceError):
    """More images wait than may wait."""

    status = 429
    reason = "queue_full"
    retry_after_s = 1

    def __init__(self, message: str, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class TooManyBytesError(QueueFullError):
    """All requests together hold as many bytes as they may."""

    reason = "bytes_full"

    def __init__(self, retry_after_s: int = 1) -> None:
        super().__init__("too many bytes of requests are held; retry shortly", retry_after_s)


class HeaderTooLargeError(ServiceError):
    """An id in the headers is too long."""

    status = 431
    reason = "header_too_large"


class SwaggerVersionError(ServiceError):
    """There is no API description in that version."""

    status = 404
    reason = "swagger_version"


class ClientGoneError(ServiceError):
    """Nobody waits for the answer any more. The status is the one nginx logs for this."""

    status = 499
    reason = "client_gone"


class UnavailableError(ServiceError):
    """No worker can take images now."""

    status = 503
    reason = "unavailable"
    retry_after_s = 5


class ScoringTimeoutError(ServiceError):
    """Scoring took longer than the deadline."""

    reason = "scoring_timeout"
    run_failed = True

    def __init__(self, timeout_ms: int) -> None:
        super().__init__(f"Scoring timeout after {timeout_ms} ms")


class ScoringError(ServiceError):
    """Scoring failed through our fault; the log has the details."""

    reason = "scoring_failed"
    run_failed = True

    def __init__(self) -> None:
        super().__init__(
            "An unexpected error occurred in scoring script. Check the logs for more info."
        )


class UrlRefusedError(BadImageError):
    """An image URL that this server does not fetch from, wherever it may lead."""

    reason = "url_refused"


class FetchError(BadImageError):
    """No image came from a URL. Why is told to the log alone: it would map our network."""

    reason = "fetch_failed"
