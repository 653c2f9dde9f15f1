"""The `serve` command."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from medvlm_r1.cli.options import Dtype, Model, NewTokens


def serve_command(
    model: Model,
    *,
    host: Annotated[
        str, typer.Option(help="Address to listen on; any address but 127.0.0.1 needs --token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 for a free one.", min=0, max=65535)] = 8000,
    token: Annotated[str | None, typer.Option(help="Password that clients must send.")] = None,
    max_new_tokens: NewTokens = 512,
    dtype: Dtype = "auto",
) -> None:
    """Serve the reader page: ask one question about an image, and check the answer.

    The model runs in this process or on a server (openai:URL#NAME). For an HTTP API, run `vllm serve DIR` or
    `transformers serve`. Ctrl-C stops the page; a second Ctrl-C does not wait for open connections.

    Example: medvlm-r1 serve phantom-base
    """
    from medvlm_r1.console import stderr_console
    from medvlm_r1.errors import RESEARCH_USE
    from medvlm_r1.serving.guard import check_access, is_local
    from medvlm_r1.serving.medvlm import MedVLM
    from medvlm_r1.serving.page.gate import discard_uploads
    from medvlm_r1.serving.server import Server, address_of, bind, build_app

    check_access(host, token)
    listening = bind(host, port)
    with stderr_console().status(f"Loading {model}"):
        medvlm = MedVLM.load(model, max_new_tokens=max_new_tokens, dtype=dtype)
        app = build_app(medvlm, token=token, local=is_local(host))

    def started() -> None:
        print(f"Page: {address_of(listening)}/" + ("   (any user name, with the token as password)" if token else ""))
        print(RESEARCH_USE, flush=True)

    def at_once() -> None:
        discard_uploads()
        print("Stopped at once.", file=sys.stderr, flush=True)

    Server(app, started, stop=medvlm.close, at_once=at_once).run(sockets=[listening])
    print("Stopped.", file=sys.stderr)
