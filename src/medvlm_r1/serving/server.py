"""Runs the application until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import secrets
import signal
import socket
from collections.abc import Callable, Iterator
from types import FrameType

import uvicorn
from anyio import to_thread
from fastapi import FastAPI

from medvlm_r1.errors import UsageError, UserError

_TOKEN_LENGTH = 16
# Answers under way when the server is told to stop have so long to end; then the model stops, and clients are told so.
_GRACE_SECONDS = 1.5
# Connections that are still there after this, such as that of an open page, are cut.
_LAST_SECONDS = 2


def is_local(host: str) -> bool:
    """Whether an address can be reached from this machine alone."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_access(host: str, token: str | None) -> None:
    """Refuse to be open to a network without a token.

    Raises:
        UsageError: It would be, or the token is too short to keep anybody out.
    """
    if token is not None and (len(token) < _TOKEN_LENGTH or not token.isascii() or not token.isprintable()):
        raise UsageError(
            f"--token has {len(token)} characters; wanted at least {_TOKEN_LENGTH}, printable ASCII, such as "
            f"{secrets.token_urlsafe(18)}"
        )
    if token is None and not is_local(host):
        raise UsageError(
            f"--host {host} can be reached from other machines; that needs --token, such as "
            f"--token {secrets.token_urlsafe(18)}"
        )


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
            f"{host}:{port} cannot be listened at ({error}); choose another --port, or 0 for any that is free."
        ) from error
    return bound


def address_of(bound: socket.socket) -> str:
    """`http://HOST:PORT`."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class Server(uvicorn.Server):
    """uvicorn's server, quiet, that ends its process' work in peace instead of by the signal that stopped it.

    Args:
        app: What is served.
        started: Called when it listens.
        stop: Ends the work of answers under way, when they have had their time.
        at_once: Called before the process ends at a second signal, which waits for nothing.
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
            # The access log would hold what was asked of whom, and so may the text of an error; `Guard` logs its kind.
            log_level="critical",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=_LAST_SECONDS,
        )
        super().__init__(config)
        self._started, self._stop, self._at_once = started, stop, at_once
        self._told = False

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
        """Begin to stop; end at once when told again."""
        if self._told:
            self._at_once()
            os._exit(128 + sig)
        self._told = True
        super().handle_exit(sig, frame)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on Ctrl-C and SIGTERM."""
        try:
            before = {sign: signal.signal(sign, self.handle_exit) for sign in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not in the main thread, which alone hears signals
            yield
            return
        try:
            yield
        finally:
            # What stopped the server may come again until the process has ended.
            if not self._told:
                for sign, handler in before.items():
                    signal.signal(sign, handler)
