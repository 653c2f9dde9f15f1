"""Access control in front of the reader page. It also adds the research-use notice to every response."""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import logging
import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medvlm_r1.errors import RESEARCH_USE, UsageError

NOTICE_HEADER = "X-Research-Use"
_LOCAL = ("127.0.0.1", "localhost", "[::1]")
_TOKEN_LENGTH = 16
_log = logging.getLogger(__name__)


def is_local(host: str) -> bool:
    """Whether an address can be reached only from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_access(host: str, token: str | None) -> None:
    """Require a token for every address except 127.0.0.1.

    Raises:
        UsageError: The address is not local and there is no token, or the token is too short or not printable ASCII.
    """
    if token is not None and (len(token) < _TOKEN_LENGTH or not token.isascii() or not token.isprintable()):
        raise UsageError(
            f"--token has {len(token)} characters; expected at least {_TOKEN_LENGTH}, printable ASCII, such as "
            f"{secrets.token_urlsafe(18)}"
        )
    if token is None and not is_local(host):
        raise UsageError(
            f"--host {host} can be reached from other machines; that needs --token, such as "
            f"--token {secrets.token_urlsafe(18)}"
        )


class Guard:
    """ASGI middleware that checks the host name and the token of each request.

    Args:
        app: The application to protect.
        token: Token required on every route, or None. It is sent as `Authorization: Bearer TOKEN` or, by a browser, as
            the password of basic authentication with any user name. It is compared in constant time.
        local: Whether to answer only requests whose `Host` header is a local name. This stops DNS rebinding: a web page
            whose host name resolves to this machine.
    """

    def __init__(self, app: ASGIApp, *, token: str | None, local: bool) -> None:
        self._app, self._token, self._local = app, token, local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reject a request, or pass it on to the application."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            # The page uses no web socket.
            await send({"type": "websocket.close", "code": 1008})
            return
        started = False

        async def with_notice(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                MutableHeaders(scope=message)[NOTICE_HEADER] = RESEARCH_USE
            await send(message)

        try:
            await (self._refusal(Headers(scope=scope)) or self._app)(scope, receive, with_notice)
        except Exception as error:
            # The text of an error may quote the question, so only its type is logged.
            _log.error("%s while answering a request", type(error).__name__)
            if started:
                raise
            failure = PlainTextResponse(f"The server failed ({type(error).__name__}).", status_code=500)
            await failure(scope, receive, with_notice)

    def _refusal(self, headers: Headers) -> ASGIApp | None:
        if self._local and not _has_local_name(headers.get("host", "")):
            return PlainTextResponse("This server answers for 127.0.0.1 and localhost only.", status_code=421)
        if not self._has_token(headers):
            # A browser asks its user for the password.
            browser = "text/html" in headers.get("accept", "")
            scheme = 'Basic realm="medvlm-r1", charset="UTF-8"' if browser else "Bearer"
            text = "A token is required: Authorization: Bearer TOKEN, as given to `medvlm-r1 serve --token`."
            return PlainTextResponse(text, status_code=401, headers={"WWW-Authenticate": scheme})
        return None

    def _has_token(self, headers: Headers) -> bool:
        if self._token is None:
            return True
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic":
            try:
                given = base64.b64decode(given, validate=True).decode().partition(":")[2]
            except (binascii.Error, ValueError):
                return False
        elif scheme.lower() != "bearer":
            return False
        return hmac.compare_digest(given.strip().encode(), self._token.encode())


def _has_local_name(host: str) -> bool:
    name = host if host.endswith("]") else host.rpartition(":")[0] or host
    return name.lower() in _LOCAL
