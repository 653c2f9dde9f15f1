"""The reader page as a web server that stops cleanly."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from types import FrameType

import uvicorn
from anyio import to_thread
from fastapi import FastAPI

from medvlm_r1.errors import UserError
from medvlm_r1.serving.guard import Guard
from medvlm_r1.serving.medvlm import MedVLM
from medvlm_r1.serving.page import mount_page

# Answers under way when the server stops have this long to finish; then the model stops.
_GRACE_SECONDS = 1.5
# Connections that are still open after this, such as that of an open page, are closed.
_LAST_SECONDS = 2


def build_app(medvlm: MedVLM, *, token: str | None = None, local: bool = True) -> FastAPI:
    """The application: the reader page at "/", behind access control.

    Args:
        medvlm: The model that answers.
        token: Required on every route.
        local: Without a token, whether to answer only requests addressed to 127.0.0.1 or localhost.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await to_thread.run_sync(medvlm.close)

    app = FastAPI(lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None)
    app.add_middleware(Guard, token=token, local=local and token is None)
    return mount_page(app, medvlm)


def bind(host: str, port: int) -> socket.socket:
    """A socket at an address.

    Raises:
        UserError: The address is not this machine's, or the port is taken or not allowed.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, OverflowError) as error:
        raise UserError(
            f"{host}:{port} cannot be used ({error}); choose another --port, or 0 for any free port."
        ) from error
    return bound


def address_of(bound: socket.socket) -> str:
    """`http://HOST:PORT`."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """uvicorn's server without its logs, stopped cleanly by Ctrl-C or SIGTERM.

    Args:
        app: The application.
        started: Called when it listens.
        stop: Called after the grace period: ends the answers under way.
        at_once: Called before the process exits at a second signal, which waits for nothing.
    """

    def __init__(
        self,
        app: FastAPI,
        started: Callable[[], None] = lambda: None,
        *,
        stop: Callable[[], None] = lambda: None,
        at_once: Callable[[], None] = lambda: None,
    ) -> None:
        config = uvicorn.Config(
            app,
            # Access logs, and the texts of errors, may repeat what was asked; `Guard` logs only an error's type.
            log_level="critical",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_LAST_SECONDS,
        )
        super().__init__(config)
        self._started, self._stop, self._at_once = started, stop, at_once
        self._stopping = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets)
        if self.started:
            self._started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let answers end, then stop them."""
        stopping = asyncio.create_task(self._stop_later())
        await super().shutdown(sockets)
        stopping.cancel()

    async def _stop_later(self) -> None:
        await asyncio.sleep(_GRACE_SECONDS)
        await to_thread.run_sync(self._stop)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; a second signal ends the process at once."""
        if self._stopping:
            self._at_once()
            os._exit(128 + sig)
        self._stopping = True
        super().handle_exit(sig, frame)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on Ctrl-C and SIGTERM."""
        try:
            before = {sign: signal.signal(sign, self.handle_exit) for sign in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not in the main thread, which alone receives signals
            yield
            return
        try:
            yield
        finally:
            # What stopped the server may come again until the process has ended.
            if not self._stopping:
                for sign, handler in before.items():
                    signal.signal(sign, handler)
