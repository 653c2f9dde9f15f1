"""Web server of the reader page: its address, who may reach it, and its shutdown."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn
from starlette.types import ASGIApp

from medvlm_r1.errors import UsageError, UserError
from medvlm_r1.serving.page.gate import discard_uploads

# When the server stops, answers in progress have this long to finish. Then the model is stopped.
_GRACE_SECONDS = 1.5
# Connections that are still open after this time, such as that of an open page, are closed.
_LAST_SECONDS = 2
_TOKEN_LENGTH = 16


def is_local(host: str) -> bool:
    """Whether an address can be reached only from this machine."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
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


def listen(host: str, port: int) -> tuple[socket.socket, str]:
    """Listen at an address; return the socket and its URL, `http://HOST:PORT`.

    Raises:
        UserError: The address does not belong to this machine, or the port is in use or not allowed.
    """
    try:
        listening = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UserError(
            f"{host}:{port} cannot be used ({error}); choose another --port, or 0 for any free port."
        ) from error
    address, port = listening.getsockname()[:2]
    return listening, f"http://[{address}]:{port}" if ":" in address else f"http://{address}:{port}"


class Server(uvicorn.Server):
    """A uvicorn server without logs. Ctrl-C or SIGTERM shuts it down gracefully; a second one ends the process.

    Args:
        app: The application.
        started: Called when the server answers, and can be stopped by a signal.
        stop: Called after the grace period, to stop answers in progress.
    """

    def __init__(self, app: ASGIApp, *, started: Callable[[], None], stop: Callable[[], None]) -> None:
        config = uvicorn.Config(
            app,
            # Access logs and error texts may quote the question. `Gate` logs only the type of an error.
            log_level="critical",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_LAST_SECONDS,
        )
        super().__init__(config)
        self._started, self._stop = started, stop

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the server, then call `started`."""
        await super().startup(sockets)
        if self.started:
            self._started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Shut down: give answers in progress a grace period to finish, then stop them."""
        timer = asyncio.get_running_loop().call_later(_GRACE_SECONDS, self._stop)
        await super().shutdown(sockets)
        timer.cancel()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Start the shutdown; a second signal ends the process immediately."""
        if self.should_exit:
            discard_uploads()
            print("Stopped at once.", file=sys.stderr, flush=True)
            os._exit(128 + sig)
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on Ctrl-C and SIGTERM. The handlers stay: a second signal may arrive until the process has ended."""
        for sign in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sign, self.handle_exit)
        yield
