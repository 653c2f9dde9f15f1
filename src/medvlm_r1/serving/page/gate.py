"""Security gate in front of the reader page.

gradio serves more than the page needs: files by path, URLs fetched by the server, and API calls. A mounted gradio
application also does not check the file paths in an event. The gate accepts only the page's own requests and uploaded
files. Uploads are stored in a private folder, in memory if possible, and deleted after reading.
"""

import atexit
import base64
import hmac
import json
import logging
import os
import re
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medvlm_r1.errors import RESEARCH_USE

_READ = re.compile(
    r"/|/config/?|/theme\.css|/(?:assets|static)/.*|/favicon\.ico|/manifest\.json|/robots\.txt"
    r"|/gradio_api/(?:startup-events|heartbeat/\w+|queue/data|upload_progress|theme\.css|info/?)"
)
_EVENT = "/gradio_api/queue/join"
_WRITE = re.compile(rf"{_EVENT}|/gradio_api/(?:upload|cancel|reset/?)")
_LOCAL = re.compile(r"(?:127\.0\.0\.1|localhost|\[::1\])(?::\d*)?", re.IGNORECASE)
_MOST_JSON = 2**20
_LEAST_MEMORY = 2**30
# The folder that `private_uploads` created, if any.
_own: list[Path] = []

# gradio's scripts build functions from text, hence unsafe-eval. Nothing external may be loaded.
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
)
_HEADERS = {"X-Research-Use": RESEARCH_USE, "X-Content-Type-Options": "nosniff"}
_PAGE_HEADERS = {"Content-Security-Policy": _POLICY, "Referrer-Policy": "no-referrer", "Cache-Control": "no-store"}
_log = logging.getLogger(__name__)


@cache
def private_uploads() -> Path:
    """Return the upload folder of this process: a new private folder, in memory if possible, that is removed at exit.

    If the environment variable `GRADIO_TEMP_DIR` is set, its folder is used instead and is not removed.
    """
    chosen = os.environ.get("GRADIO_TEMP_DIR")
    if chosen:
        return Path(chosen)
    memory = Path("/dev/shm")
    # In a container, /dev/shm may be too small for one upload.
    fits = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free >= _LEAST_MEMORY
    folder = Path(tempfile.mkdtemp(prefix="medvlm-r1-", dir=memory if fits else None))
    _own.append(folder)
    atexit.register(discard_uploads)
    # gradio has no other setting for its upload folder.
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    return folder


def discard_uploads() -> None:
    """Remove the folder that `private_uploads` created; a folder given by `GRADIO_TEMP_DIR` is not removed."""
    for folder in _own:
        shutil.rmtree(folder, ignore_errors=True)


def is_upload(path: Any) -> bool:
    """Whether a path is inside the upload folder; False for a URL."""
    if not isinstance(path, str) or "\0" in path or "://" in path:
        return False
    return private_uploads().resolve() in Path(path).resolve().parents


class Gate:
    """ASGI middleware that passes on only the page's own requests, and adds security headers to every response.

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
        """Refuse a request with status 400, 401, 404, 413 or 421, or pass it on to the page."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            # The page uses no web socket.
            await send({"type": "websocket.close", "code": 1008})
            return
        started = False

        async def with_headers(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                headers = _HEADERS | (_PAGE_HEADERS if scope["path"] == "/" else {})
                MutableHeaders(scope=message).update(headers)
            await send(message)

        try:
            answer = self._refusal(scope["method"], scope["path"], Headers(scope=scope)) or self._app
            if answer is self._app and scope["path"] == _EVENT:
                event = await _read_event(Request(scope, receive))
                if isinstance(event, PlainTextResponse):
                    answer = event
                else:
                    receive = _again(event, receive)
            await answer(scope, receive, with_headers)
        except Exception as error:
            # The text of an error may quote the question, so only its type is logged.
            _log.error("%s while answering a request", type(error).__name__)
            if started:
                raise
            failure = PlainTextResponse(f"The server failed ({type(error).__name__}).", status_code=500)
            await failure(scope, receive, with_headers)

    def _refusal(self, method: str, path: str, headers: Headers) -> PlainTextResponse | None:
        if self._local and not _LOCAL.fullmatch(headers.get("host", "")):
            return PlainTextResponse("This server answers for 127.0.0.1 and localhost only.", status_code=421)
        if self._token is not None and not hmac.compare_digest(_given_token(headers), self._token.encode()):
            # A browser asks its user for the password.
            browser = "text/html" in headers.get("accept", "")
            scheme = 'Basic realm="medvlm-r1", charset="UTF-8"' if browser else "Bearer"
            text = "A token is required: Authorization: Bearer TOKEN, as given to `medvlm-r1 serve --token`."
            return PlainTextResponse(text, status_code=401, headers={"WWW-Authenticate": scheme})
        allowed = {"GET": _READ, "HEAD": _READ, "POST": _WRITE}
        if method not in allowed or not allowed[method].fullmatch(path):
            return PlainTextResponse("Not found", status_code=404)
        return None


def _given_token(headers: Headers) -> bytes:
    scheme, _, value = headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode()
    try:
        return base64.b64decode(value, validate=True).partition(b":")[2] if scheme.lower() == "basic" else b""
    except ValueError:
        return b""


async def _read_event(request: Request) -> bytes | PlainTextResponse:
    """Read and check an event. Serialize it again, so that gradio reads exactly what was checked."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > _MOST_JSON:
            return PlainTextResponse("Too much text.", status_code=413)
    try:
        event = json.loads(body, object_hook=_without_files)
    except (ValueError, RecursionError):
        event = None
    if not isinstance(event, dict):
        return PlainTextResponse("This event is not one of the page's.", status_code=400)
    return json.dumps(event).encode()


def _without_files(value: dict[str, Any]) -> dict[str, Any]:
    """Return a JSON object if it names no file, except an upload."""
    if "path" in value and not is_upload(value["path"]):
        raise ValueError
    return value


def _again(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` function that replays the body and then continues with `receive`."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay
