"""The `ask` and `serve` commands."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from medvlm_r1.cli.options import Dtype, Json, Model, NewTokens, Template, completion, print_result
from medvlm_r1.errors import RESEARCH_USE

PLANES = ("axial", "coronal", "sagittal")
WINDOWS = ("brain", "subdural", "lung", "soft-tissue", "bone", "percentile", "full", "stored")


def ask_command(
    model: Model,
    *,
    image: Path,
    question: str,
    option: list[str] | None = None,
    frame: int | None = None,
    plane: Annotated[str | None, typer.Option(autocompletion=completion(*PLANES))] = None,
    slice_: Annotated[int | None, typer.Option("--slice")] = None,
    series: int | None = None,
    window: Annotated[
        str | None,
        typer.Option(
            autocompletion=completion(*WINDOWS),
            help=f"{', '.join(WINDOWS)}, or CENTER/WIDTH in image units (CT: HU). Three with commas: red, green, blue.",
        ),
    ] = None,
    max_new_tokens: NewTokens = 512,
    template: Template = "medvlm-r1",
    dtype: Dtype = "auto",
    as_json: Json = False,
) -> None:
    """Ask one question about one image.

    Example: medvlm-r1 ask phantom-base --image ct.png --question "Which organ?" --option liver --option kidney
    Example: medvlm-r1 ask phantom-base --image ct.dcm --window 40/400 --question "What is seen?"
    Example: medvlm-r1 ask phantom-base --image study/ --plane axial --slice 60 --question "What is seen?"

    Options:
        image: PNG, JPEG, TIFF, BMP, DICOM or a volume such as NIfTI; or a folder or ZIP archive of DICOM series.
        question: The question.
        option: One option without its letter; repeatable. Without options the question is open.
        frame: Frame of a multi-frame file, counted from 0.
        plane: Volumes: axial, coronal or sagittal.
        slice_: Volumes: slice number in that plane, counted from 0.
        series: Folders and archives: number of the DICOM series, counted from 0.
    """
    from medvlm_r1.console import stderr_console
    from medvlm_r1.models.generate import check_images
    from medvlm_r1.models.load import image_fit
    from medvlm_r1.models.remote import is_server
    from medvlm_r1.serving.answer import report_lines
    from medvlm_r1.serving.medvlm import MedVLM, Question, prepare

    view: dict[str, Any] = {"frame": frame, "plane": plane, "slice": slice_, "window": window, "series": series}
    query = Question(image=image, question=question, options=option or (), template=template, **view)
    # Check the question before a model is loaded.
    prepared = prepare(query)
    if not is_server(model):
        check_images(0, prepared.item, image_fit(model))
    with (
        stderr_console().status(f"Asking {model}"),
        MedVLM.load(model, max_new_tokens=max_new_tokens, dtype=dtype) as medvlm,
    ):
        [answer] = medvlm.ask_batch([replace(query, image=prepared.pictures)])
    print_result(answer.as_record(), report_lines(answer, open_question=not option), as_json=as_json)


def serve_command(
    model: Model,
    *,
    host: str = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535)] = 8000,
    token: str | None = None,
    max_new_tokens: NewTokens = 512,
    template: Template = "medvlm-r1",
    dtype: Dtype = "auto",
) -> None:
    """Serve the reader page: ask one question about an image, and check the answer.

    The model runs in this process or on a server (openai:URL#NAME). For an HTTP API, run `vllm serve DIR` or
    `transformers serve`. Ctrl-C stops the page; a second Ctrl-C does not wait for open connections.

    Example: medvlm-r1 serve phantom-base

    Options:
        host: Address to listen on; any address but 127.0.0.1 needs --token.
        port: Port; 0 for a free one.
        token: Password that clients must send.
    """
    from medvlm_r1.console import stderr_console
    from medvlm_r1.serving.medvlm import MedVLM
    from medvlm_r1.serving.page import build_app
    from medvlm_r1.serving.server import Server, check_access, is_local, listen

    check_access(host, token)
    listening, address = listen(host, port)
    with stderr_console().status(f"Loading {model}"):
        medvlm = MedVLM.load(model, max_new_tokens=max_new_tokens, dtype=dtype)
        app = build_app(medvlm, token=token, local=is_local(host), template=template)

    def started() -> None:
        print(f"Page: {address}/" + ("   (any user name, with the token as password)" if token else ""))
        print(RESEARCH_USE, flush=True)

    with medvlm:
        Server(app, started=started, stop=medvlm.close).run(sockets=[listening])
    print("Stopped.", file=sys.stderr)
