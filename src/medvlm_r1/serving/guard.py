"""What stands in front of every route: who may ask, how much, and the notice on every answer."""

from __future__ import annotations

import base64
import binascii
import hmac
import logging
import time
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medvlm_r1.errors import RESEARCH_USE
from medvlm_r1.serving.api_errors import ApiError, too_large

NOTICE_HEADER = "X-Research-Use"
API = "/v1/"
_OPEN = "/health"
_LOCAL = ("127.0.0.1", "localhost", "[::1]")
# A client that is still sending cannot hear an answer: so much of what is too large is read and thrown away first.
_DRAINED = 2**30
_log = logging.getLogger(__name__)


class Guard:
    """The outermost layer of the application.

    Args:
        app: What it stands in front of.
        token: Wanted as `Authorization: Bearer TOKEN` on every route but /health; a browser may give it as the password
            of basic authentication, with any name.
        local: Whether only requests addressed to this machine by a local name are answered. A page on the network
            whose name was made to point here (DNS rebinding) then gets nothing.
        body: Bytes of a request to the API at most.
        answered: Told path, status and seconds of every answer.
    """

    def __init__(
        self, app: ASGIApp, *, token: str | None, local: bool, body: int, answered: Callable[[str, int, float], None]
    ) -> None:
        self._app, self._token, self._local, self._body, self._answered = app, token, local, body, answered

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        if scope["type"] != "http":
            if scope["type"] == "websocket" and not self._may(Headers(scope=scope)):
                await send({"type": "websocket.close", "code": 1008})
                return
            await self._app(scope, receive, send)
            return
        begun, status = time.monotonic(), 0

        async def marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[NOTICE_HEADER] = RESEARCH_USE
            await send(message)

        try:
            await self._answer(scope, receive, marked)
        except Exception as error:
            # The text of an error may repeat what was asked, so its kind alone is logged.
            _log.error("%s while answering", type(error).__name__)
            if status:
                raise
            await ApiError(500, f"The server failed ({type(error).__name__}).").response()(scope, receive, marked)
        finally:
            self._answered(scope["path"], status, time.monotonic() - begun)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        if self._local and not _named_local(headers.get("host", "")):
            refusal = ApiError(421, "This server answers for 127.0.0.1 and localhost only.", code="wrong_host")
            await refusal.response()(scope, receive, send)
            return
        if scope["path"] != _OPEN and not self._may(headers):
            await _unknown(headers).response()(scope, receive, send)
            return
        if scope["path"].startswith(API):
            length = headers.get("content-length", "")
            if length.isdecimal() and int(length) > self._body:
                await self._too_large(receive, 0)
                await self._refusal().response()(scope, receive, send)
                return
            receive = self._counted(receive)
        await self._app(scope, receive, send)

    def _may(self, headers: Headers) -> bool:
        if self._token is None:
            return True
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "basic":
            try:
                given = base64.b64decode(given, validate=True).decode().partition(":")[2]
            except (binascii.Error, ValueError):
                return False
        elif kind.lower() != "bearer":
            return False
        return hmac.compare_digest(given.strip().encode(), self._token.encode())

    def _counted(self, receive: Receive) -> Receive:
        seen = 0

        async def counted() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            if seen > self._body:
                await self._too_large(receive, seen)
                raise HTTPException(413, self._refusal().message)
            return message

        return counted

    def _refusal(self) -> ApiError:
        return too_large(f"The request is over {self._body // 2**20} MB; send smaller or fewer images.")

    async def _too_large(self, receive: Receive, seen: int) -> None:
        while seen <= _DRAINED:
            message = await receive()
            seen += len(message.get("body", b""))
            if not message.get("more_body", False):
                return


def _named_local(host: str) -> bool:
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    return name.lower() in _LOCAL


def _unknown(headers: Headers) -> ApiError:
    """401, in the way the client can answer: a browser asks its user."""
    browser = "text/html" in headers.get("accept", "")
    way = 'Basic realm="medvlm-r1", charset="UTF-8"' if browser else "Bearer"
    return ApiError(
        401,
        "A token is wanted: Authorization: Bearer TOKEN, as the server was started with (--token).",
        code="invalid_api_key",
        headers={"WWW-Authenticate": way},
    )
