"""Security gate in front of the reader page.

gradio serves more than the page needs: files by path, URLs fetched by the server, and API calls. A mounted gradio
application also does not check the file paths in an event. The gate accepts only the page's own requests and uploaded
files. Uploads are stored in a private folder, in memory if possible, and deleted after reading.
"""

from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_READ = re.compile(
    r"/|/config/?|/theme\.css|/(?:assets|static)/.*|/favicon\.ico|/manifest\.json|/robots\.txt"
    r"|/gradio_api/(?:startup-events|heartbeat/\w+|queue/data|upload_progress|theme\.css|info/?)"
)
_WRITE = re.compile(r"/gradio_api/(?:upload|queue/join|cancel|reset/?)")
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
_HEADERS = {
    b"content-security-policy": _POLICY.encode(),
    b"referrer-policy": b"no-referrer",
    b"x-content-type-options": b"nosniff",
    b"cache-control": b"no-store",
}


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


class Gate:
    """ASGI middleware that passes on only the page's own requests.

    Other requests get status 404. Events that name a file outside the upload folder get status 400.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reject a request, or pass it on to the page."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        if scope["type"] != "http":
            # The page uses no web socket.
            await send({"type": "websocket.close", "code": 1008})
            return
        path = scope["path"].removeprefix(scope.get("root_path", "")) or "/"
        reading = scope["method"] in ("GET", "HEAD")
        if not (_READ if reading else _WRITE).fullmatch(path) or scope["method"] not in ("GET", "HEAD", "POST"):
            await PlainTextResponse("Not found", status_code=404)(scope, receive, send)
            return
        if path == "/gradio_api/queue/join":
            body = await _body(receive)
            if body is None:
                await PlainTextResponse("Too much text.", status_code=413)(scope, receive, send)
                return
            event = _read_event(body)
            if event is None:
                await PlainTextResponse("This event is not one of the page's.", status_code=400)(scope, receive, send)
                return
            # Serialize again, so that gradio reads exactly what was checked.
            receive = _again(json.dumps(event).encode(), receive)
        await self.app(scope, receive, _sealed(send, page=path == "/"))


async def _body(receive: Receive) -> bytes | None:
    """Read the body of a request; None if it exceeds the limit."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > _MOST_JSON:
            return None
    return body


def _read_event(body: bytes) -> Any:
    """Parse an event; None if it is invalid or names a file that was not uploaded."""
    try:
        event = json.loads(body)
        values = [event]
        while values:
            value = values.pop()
            if isinstance(value, dict):
                if "path" in value and not is_upload(value["path"]):
                    return None
                values += value.values()
            elif isinstance(value, list):
                values += value
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) else None


def is_upload(path: Any) -> bool:
    """Whether a path is inside the upload folder; False for a URL."""
    if not isinstance(path, str) or "\0" in path or "://" in path:
        return False
    folder = private_uploads().resolve()
    return folder in Path(path).resolve().parents


def _again(body: bytes, receive: Receive) -> Receive:
    """Return a `receive` function that replays the body and then continues with `receive`."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return messages.pop() if messages else await receive()

    return replay


def _sealed(send: Send, *, page: bool) -> Send:
    """Return a `send` function that adds the security headers."""
    added = _HEADERS if page else {b"x-content-type-options": b"nosniff"}

    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            others = [(name, value) for name, value in message["headers"] if name.lower() not in added]
            message = {**message, "headers": [*others, *added.items()]}
        await send(message)

    return with_headers
