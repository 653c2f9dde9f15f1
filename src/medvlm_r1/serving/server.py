"""Web server of the reader page, with graceful shutdown."""

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

# When the server stops, answers in progress have this long to finish. Then the model is stopped.
_GRACE_SECONDS = 1.5
# Connections that are still open after this time, such as that of an open page, are closed.
_LAST_SECONDS = 2


def build_app(medvlm: MedVLM, *, token: str | None = None, local: bool = True) -> FastAPI:
    """Build the application: the reader page at "/", behind access control.

    Args:
        medvlm: The model that answers.
        token: Token required on every route; None if no token is required.
        local: Whether to answer only requests addressed to 127.0.0.1 or localhost. Ignored if there is a token.
    """

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await to_thread.run_sync(medvlm.close)

    app = FastAPI(lifespan=lifespan, openapi_url=None, docs_url=None, redoc_url=None)
    app.add_middleware(Guard, token=token, local=local and token is None)
    return mount_page(app, medvlm)


def bind(host: str, port: int) -> socket.socket:
    """Return a socket bound to an address.

    Raises:
        UserError: The address does not belong to this machine, or the port is in use or not allowed.
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
    """Return the URL of a bound socket: `http://HOST:PORT`."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """A uvicorn server without logs. Ctrl-C or SIGTERM shuts it down gracefully.

    Args:
        app: The application.
        started: Called when the server is listening.
        stop: Called after the grace period, to stop answers in progress.
        at_once: Called at a second signal, right before the process exits without waiting for answers.
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
            # Access logs and error texts may quote the question. `Guard` logs only the type of an error.
            log_level="critical",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_LAST_SECONDS,
        )
        super().__init__(config)
        self._started, self._stop, self._at_once = started, stop, at_once
        self._stopping = False

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start listening, then call `started`."""
        await super().startup(sockets)
        if self.started:
            self._started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Shut down: give answers in progress a grace period to finish, then stop them."""
        stopping = asyncio.create_task(self._stop_later())
        await super().shutdown(sockets)
        stopping.cancel()

    async def _stop_later(self) -> None:
        await asyncio.sleep(_GRACE_SECONDS)
        await to_thread.run_sync(self._stop)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start the shutdown; a second signal ends the process immediately."""
        if self._stopping:
            self._at_once()
            os._exit(128 + sig)
        self._stopping = True
        super().handle_exit(sig, frame)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """While the context is active, stop the server on Ctrl-C and SIGTERM."""
        try:
            before = {sign: signal.signal(sign, self.handle_exit) for sign in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not in the main thread, which alone receives signals
            yield
            return
        try:
            yield
        finally:
            # After a stop signal, keep these handlers: a second signal may arrive before the process has ended.
            if not self._stopping:
                for sign, handler in before.items():
                    signal.signal(sign, handler)
