"""Cross-origin requests, by the rules of Azure's server."""

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_ANY = "*"


class CORSMiddleware:
    """Tells browsers which pages may read the answers; no request is refused.

    A listed origin comes back as it was sent; one that is not listed gets no header, which makes
    the browser refuse. A request that names no origin is told the first one listed.
    """

    def __init__(self, app: ASGIApp, origins: tuple[str, ...]) -> None:
        self.app = app
        self._origins = origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        added = self._headers(scope["method"], Headers(scope=scope))

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in added.items():
                    headers[name] = value
            await send(message)

        await self.app(scope, receive, send_with_headers)

    def _headers(self, method: str, request: Headers) -> dict[str, str]:
        origin = request.get("origin")
        if origin is None:
            allowed = _ANY if _ANY in self._origins else self._origins[0]
        elif origin in self._origins or _ANY in self._origins:
            allowed = origin
        else:
            return {}
        headers = {"access-control-allow-origin": allowed}
        if allowed != _ANY and (len(self._origins) > 1 or _ANY in self._origins):
            headers["vary"] = "Origin"
        if method == "OPTIONS":
            headers["access-control-allow-methods"] = "GET, POST"
            if asked := request.get("access-control-request-headers"):
                headers["access-control-allow-headers"] = asked
        return headers
