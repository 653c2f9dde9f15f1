"""Runs the commands of stdin, one JSON list each, in this process, where nothing may be connected to or looked up.

Prints a line of JSON for each: its exit code and what it tried to reach.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import sys
from typing import Any

tried: list[str] = []


def refuse(name: str) -> Any:
    """A function of `socket` that notes its target and fails as without a network."""
    wrapped = getattr(socket.socket, name, None) or getattr(socket, name)

    def refused(*arguments: Any, **keywords: Any) -> Any:
        target = next((a for a in arguments if not isinstance(a, socket.socket)), "")
        local = target in ("127.0.0.1", "localhost")
        # `serve` asks for the address it was told to listen at; no name server is asked for that.
        if isinstance(target, bytes | str) and name == "getaddrinfo" and local:
            return wrapped(*arguments, **keywords)
        if arguments and isinstance(arguments[0], socket.socket) and arguments[0].family == socket.AF_UNIX:
            return wrapped(*arguments, **keywords)
        tried.append(f"{name} {target!r}")
        raise OSError(101, "Network is unreachable")

    return refused


for method in ("connect", "connect_ex", "sendto", "sendmsg"):
    setattr(socket.socket, method, refuse(method))
for function in ("getaddrinfo", "gethostbyname", "gethostbyname_ex", "create_connection"):
    setattr(socket, function, refuse(function))


def main() -> None:
    """Run them."""
    from medvlm_r1.cli import main as cli
    from medvlm_r1.serving import server

    served = server.Server.startup

    async def startup(self: Any, sockets: Any = None) -> None:
        await served(self, sockets)
        os.kill(os.getpid(), signal.SIGTERM)

    server.Server.startup = startup  # type: ignore[method-assign]
    for line in sys.stdin:
        sys.argv = ["medvlm-r1", *json.loads(line)]
        before = len(tried)
        code: object = 0
        with contextlib.redirect_stdout(sys.stderr):
            try:
                cli.main()
            except SystemExit as exit_:
                code = exit_.code or 0
        print(json.dumps({"code": code, "tried": tried[before:]}), flush=True)


if __name__ == "__main__":
    main()
