"""The `serve` command. As in `cli`, it imports what it needs when it runs."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from medvlm_r1.cli_options import Model, NewTokens


def serve_command(
    model: Model,
    *,
    host: Annotated[str, typer.Option(help="Address to listen at; other than 127.0.0.1 needs --token.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 for any that is free.", min=0, max=65535)] = 8000,
    token: Annotated[str | None, typer.Option(help="Wanted of every client, as OpenAI's API key.")] = None,
    max_batch: Annotated[int, typer.Option(min=1, help="Answers written at a time.")] = 32,
    queue: Annotated[
        int, typer.Option(min=1, help="Requests that may wait; further ones are sent away with 429.")
    ] = 64,
    max_new_tokens: NewTokens = 512,
    no_page: Annotated[bool, typer.Option("--no-page", help="The API alone.")] = False,
) -> None:
    """Answer over HTTP: OpenAI's chat interface at /v1, and a page to click through at /.

    Of a model on a server (openai:URL#NAME) the page alone. Ctrl-C ends it, a second one without waiting.

    Example: medvlm-r1 serve phantom-base
    """
    from medvlm_r1.console import stderr_console
    from medvlm_r1.errors import RESEARCH_USE, UsageError, UserError
    from medvlm_r1.policy.server import is_server

    if is_server(model) and no_page:
        raise UsageError(f"{model} has an API of its own, and --no-page leaves nothing else to serve.")
    try:
        from medvlm_r1.serving.api import build_app, served_name
        from medvlm_r1.serving.server import Server, address_of, bind, check_access, is_local

        if not no_page:
            import gradio  # noqa: F401
    except ModuleNotFoundError as error:
        raise UserError(
            f"Serving needs {error.name}, which is not installed: pip install -e '.[serve]' in the project's folder."
        ) from error
    from medvlm_r1.serving.medvlm import MedVLM

    check_access(host, token)
    bound = bind(host, port)
    with stderr_console().status(f"Loading {model}"):
        medvlm = MedVLM.load(model, max_new_tokens=max_new_tokens, max_batch=max_batch, queue=queue)
        app = build_app(medvlm, token=token, local=is_local(host), page=not no_page)
    address = address_of(bound)

    def started() -> None:
        if not no_page:
            print(f"Page: {address}/" + ("   (any user name; the token is the password)" if token else ""))
        if not is_server(model):
            print(f"API:  {address}/v1   model {served_name(medvlm)}")
        print(RESEARCH_USE, flush=True)

    def at_once() -> None:
        if not no_page:
            from medvlm_r1.serving.page_mount import discard_uploads

            discard_uploads()
        print("Stopped at once.", file=sys.stderr, flush=True)

    Server(app, started, stop=medvlm.retire, at_once=at_once).run(sockets=[bound])
    print("Stopped.", file=sys.stderr)
