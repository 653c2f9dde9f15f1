"""The HTTP API: OpenAI's chat completions, on the model and the engine that the page uses too.

Nothing of a request is written to disk or to a log, and no address in one is fetched.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from anyio import CapacityLimiter, to_thread
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from medvlm_r1.errors import RESEARCH_USE, UserError
from medvlm_r1.policy.generate import GenerationInput, GenerationSettings
from medvlm_r1.serving.api_errors import ApiError, from_exception, on_api_error, on_http_error, on_invalid
from medvlm_r1.serving.backend import LocalBackend
from medvlm_r1.serving.chat_prompt import Limits, read_request
from medvlm_r1.serving.chat_reply import Reply
from medvlm_r1.serving.chat_schema import ChatRequest, ErrorBody
from medvlm_r1.serving.engine import Busy, Engine
from medvlm_r1.serving.guard import Guard
from medvlm_r1.serving.job import Event, Job
from medvlm_r1.serving.medvlm import MedVLM
from medvlm_r1.serving.metrics import Metrics

_PATHS = ("/v1/chat/completions", "/v1/models", "/health", "/metrics")
# Images decoded at a time: each may take hundreds of megabytes while it is.
_DECODING = 2
_BODIES = {"application/json": "object", "text/event-stream": "string"}
_SUCCESS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "A chat.completion, or its chunks as an event stream.",
        "content": {kind: {"schema": {"type": kind_of}} for kind, kind_of in _BODIES.items()},
    }
}
_ERRORS: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorBody, "description": text}
    for code, text in {
        400: "The request cannot be answered; the message says why.",
        401: "The token is missing or wrong.",
        404: "No such model.",
        413: "Too much text, too many or too large images.",
        421: "The server was addressed by a name that is not its own.",
        429: "The queue is full; Retry-After says when to try again.",
        500: "The model failed.",
        503: "The server is closing.",
    }.items()
}


def served_name(medvlm: MedVLM) -> str:
    """The model's name to clients: a folder's last part, anything else as it is."""
    return medvlm.name.rstrip("/").rpartition("/")[2] if medvlm.name.startswith(("/", ".", "~")) else medvlm.name


def build_app(
    medvlm: MedVLM,
    *,
    token: str | None = None,
    local: bool = True,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    page: bool = True,
) -> FastAPI:
    """The application.

    Args:
        medvlm: The model that answers. The API is there for a model in this process; one on a server has its own.
        token: Wanted on every route but /health.
        local: Whether only requests addressed to 127.0.0.1 or localhost are answered.
        limits: What one request may hold.
        page: Whether the reader page stands at "/".

    Raises:
        ImportError: gradio is not there and the page is wanted.
    """
    engine = medvlm.backend.engine if isinstance(medvlm.backend, LocalBackend) else None
    metrics = Metrics(engine)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await to_thread.run_sync(medvlm.close)

    app = FastAPI(
        title="MedVLM-R1",
        description=RESEARCH_USE,
        lifespan=lifespan,
        # The documentation pages load scripts from elsewhere.
        docs_url=None,
        redoc_url=None,
        exception_handlers={
            ApiError: on_api_error,
            HTTPException: on_http_error,
            RequestValidationError: on_invalid,
        },
    )
    _add_watch(app, metrics)
    if engine is not None:
        _add_models(app, served_name(medvlm))
        _add_chat(app, engine, medvlm, limits)
    if page:
        from medvlm_r1.serving.page import mount_page

        mount_page(app, medvlm)
    _document(app, None if engine is None else served_name(medvlm))

    def answered(path: str, status: int, seconds: float) -> None:
        metrics.answered(_kind(path), status, seconds)

    app.add_middleware(Guard, token=token, local=local and token is None, body=limits.body, answered=answered)
    return app


def _kind(path: str) -> str:
    if path.startswith("/v1/models/"):
        return "/v1/models/{model}"
    return path if path in _PATHS else "other"


def _add_watch(app: FastAPI, metrics: Metrics) -> None:
    @app.get("/health")
    async def health() -> dict[str, str]:
        """Whether the server answers. Needs no token."""
        return {"status": "ok"}

    @app.get("/metrics", response_class=PlainTextResponse)
    async def figures() -> Response:
        """Figures in Prometheus' text form."""
        return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _add_models(app: FastAPI, name: str) -> None:
    card = {"id": name, "object": "model", "created": int(time.time()), "owned_by": "medvlm-r1", "notice": RESEARCH_USE}

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The one model that is served."""
        return {"object": "list", "data": [card]}

    @app.get("/v1/models/{model:path}", responses={404: _ERRORS[404]})
    async def model(model: str) -> dict[str, Any]:
        """The model of that name."""
        _check_name(model, name)
        return card


def _check_name(asked: str, name: str) -> None:
    if asked != name:
        raise ApiError(404, f"No such model here; the one served is {name!r}.", param="model", code="model_not_found")


def _add_chat(app: FastAPI, engine: Engine, medvlm: MedVLM, limits: Limits) -> None:
    decoding = CapacityLimiter(_DECODING)
    name = served_name(medvlm)

    @app.post("/v1/chat/completions", responses=_SUCCESS | _ERRORS, response_model=None)
    async def chat(asked: ChatRequest, request: Request) -> Response:
        """Go on with a conversation, as OpenAI's API does. Research use only. Not a medical device."""
        _check_name(asked.model, name)
        n = asked.n or 1
        if n > engine.max_batch:
            raise ApiError(400, f"n: at most {engine.max_batch} completions of a request.", param="n")
        prepared = await to_thread.run_sync(read_request, asked, limits, limiter=decoding)
        events: asyncio.Queue[Event] = asyncio.Queue()
        job = _job(asked, prepared.item, medvlm.max_new_tokens, _teller(events))
        reply = Reply(
            model=name,
            job=job,
            events=events,
            tokenizer=engine.policy.processor.tokenizer,
            include_usage=bool(asked.stream_options and asked.stream_options.include_usage),
            read=(lambda done: medvlm.read([prepared] * len(done), done)) if asked.read else None,
        )
        try:
            engine.submit(job, bounded=True)
        except Busy as error:
            raise from_exception(error) from error
        except UserError as error:
            raise ApiError(400, str(error)) from error
        if not asked.stream:
            return JSONResponse(await _unless_gone(request, _answer(reply), job))
        await _unless_gone(request, reply.start(), job)
        return _Stream(reply)


def _job(asked: ChatRequest, item: GenerationInput, most: int, tell: Callable[[Event], None]) -> Job:
    seed = secrets.randbits(62) if asked.seed is None else asked.seed
    wanted = asked.max_completion_tokens or asked.max_tokens or most
    temperature = 1.0 if asked.temperature is None else asked.temperature
    return Job(
        item=item,
        settings=GenerationSettings(max_new_tokens=min(wanted, most), temperature=temperature, seed=seed),
        tell=tell,
        n=asked.n or 1,
        top_p=asked.top_p or 1.0,
        stop=(asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ()),
        top_logprobs=(asked.top_logprobs or 0) if asked.logprobs else None,
        live=bool(asked.stream),
    )


class _Stream(StreamingResponse):
    """A stream that stops the model when it ends, however it does."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(reply.chunks(), media_type="text/event-stream", headers={"Cache-Control": "no-store"})
        self._job = reply.job

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._job.cancel()


async def _answer(reply: Reply) -> dict[str, Any]:
    await reply.start()
    return await reply.whole()


async def _unless_gone(request: Request, work: Any, job: Job) -> Any:
    """Wait for an answer; a client that hangs up before gets none, and the model stops."""
    answering, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not answering.done():
            raise ApiError(499, "The client left.")
        return answering.result()
    finally:
        leaving.cancel()
        if not answering.done() or answering.cancelled() or answering.exception() is not None:
            answering.cancel()
            job.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _teller(events: asyncio.Queue[Event]) -> Callable[[Event], None]:
    """From the engine's thread into this loop; a loop that has ended hears nothing, and the engine goes on."""
    loop = asyncio.get_running_loop()

    def tell(event: Event) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(events.put_nowait, event)

    return tell


def _document(app: FastAPI, model: str | None) -> None:
    """Make the schema say what is so: the one model there is, and no 422, which is the framework's and never sent."""
    made = app.openapi()
    for path in made["paths"].values():
        for operation in path.values():
            operation["responses"].pop("422", None)
    schemas = made.get("components", {}).get("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    if model is not None:
        schemas["ChatRequest"]["properties"]["model"]["enum"] = [model]
