"""Generation on servers with OpenAI's chat API (vLLM, SGLang and others), with the protocol of `models.generate`.

A model on a server is named `openai:URL#NAME`, as in `openai:http://localhost:8000/v1#Qwen/Qwen2-VL-2B-Instruct`.
`openai:URL,URL,...#NAME` names several servers with the same model. Requests go only to these addresses. The API key
is read from the environment variable OPENAI_API_KEY.
"""

from __future__ import annotations

import base64
import collections.abc
import io
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar
from urllib.parse import urlsplit

from medvlm_r1.errors import UserError
from medvlm_r1.models.generate import Generation, GenerationInput, GenerationSettings, Generator, check_images
from medvlm_r1.models.remote_reply import BadReply, read_json, read_pieces, read_reply, shorten
from medvlm_r1.prompts.parser import with_reasoning_opened

PREFIX = "openai:"
_RETRIES = 5
_BAD_REPLIES = 3
_SECONDS = 600.0
_REFUSALS = (400, 404, 405, 422, 501)
# Without these fields, vLLM uses the values in the checkpoint's generation_config.json (Qwen2-VL: top_k 1).
_WHOLE_DISTRIBUTION = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
_CONTINUE = {"continue_final_message": True, "add_generation_prompt": False}

T = TypeVar("T")


def is_server(model: str) -> bool:
    """Whether a name refers to a model on a server."""
    return model.startswith(PREFIX)


class Refused(UserError):
    """A server refused a request, because it does not support a field or has no such endpoint."""


class ServerGone(UserError):
    """After all retries, a server has sent no reply, a server error (5xx except 501), or a reply without an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerGenerator(Generator):
    """Generator that sends several requests at a time to one server.

    Requests are retried with growing pauses after failed connections, time-outs and the statuses 408, 409, 429 and 5xx.
    If a reply holds no answer (see `models.remote_reply`), the request is sent up to three times in total. Redirects
    are not followed, so images and questions go only to the given address.
    """

    url: str
    """Base address, such as http://localhost:8000/v1."""
    name: str
    """The model's name on the server."""
    concurrency: int = 8
    """Maximum number of concurrent requests."""
    retries: int = _RETRIES
    """Maximum number of retries for each request, after connection errors and error statuses."""
    pause: float = 1.0
    """Seconds to wait before a second attempt if a reply holds no answer. The wait before a third is twice as long."""
    _refused: set[str] = field(init=False, default_factory=set, compare=False, repr=False)
    """Fields of `_WHOLE_DISTRIBUTION` after the server has refused them; empty before. Refused fields are not sent."""

    @classmethod
    def parse(cls, model: str, concurrency: int = 8) -> ServerGenerator:
        """Make a generator from `openai:URL#NAME`.

        Raises:
            UserError: The name has another form.
        """
        url, mark, name = model.removeprefix(PREFIX).partition("#")
        address = urlsplit(url)
        known = address.scheme in ("http", "https") and address.netloc and "," not in url
        if not is_server(model) or not known or not mark or not name:
            raise UserError(
                f"{model!r} does not name a model on a server; wanted openai:URL#NAME, "
                "such as openai:http://localhost:8000/v1#my-model."
            )
        return cls(url=url, name=name, concurrency=concurrency)

    def iterate(
        self, items: Sequence[GenerationInput], settings: GenerationSettings, done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Generation]]]:
        """See `Generator`. If a request fails, running requests finish before the error is raised.

        Raises:
            UserError: The server cannot be reached or refuses a request, or the number of images of an item differs
                from the number of its image placeholders.
        """
        return ServerPool(servers=(self,)).iterate(items, settings, done)

    def client(self) -> Any:
        """Make a client for the server. The caller has to close it."""
        from openai import DefaultHttpxClient, OpenAI

        return OpenAI(
            base_url=self.url,
            api_key=os.environ.get("OPENAI_API_KEY") or "none",
            max_retries=self.retries,
            timeout=_SECONDS,
            http_client=DefaultHttpxClient(follow_redirects=False),
        )

    def stream(
        self, item: GenerationInput, settings: GenerationSettings
    ) -> collections.abc.Generator[str, None, Generation]:
        """Yield the pieces of one completion as the server sends them, and return the whole.

        Closing the generator closes the connection. Most servers then stop generating.

        Raises:
            UserError: See `iterate`.
        """
        check_images(0, item)
        pieces: list[str] = []
        try:
            with (
                self.client() as client,
                self._as_user_errors(),
                self._send(client.chat.completions.create, item, settings, stream=True) as chunks,
            ):
                reason = yield from read_pieces(chunks, pieces)
        except BadReply as error:
            raise self._no_answer(item, error) from error
        # A stream that ends without a finish reason was interrupted.
        text = with_reasoning_opened("".join(pieces))
        return Generation(text=text, n_tokens=len(pieces), truncated=reason in ("length", None))

    def letters(self, *_: object) -> None:
        """Return None, because servers differ in the log-probabilities that they return."""

    def close(self) -> None:
        """Do nothing: there is nothing to release."""

    def complete(
        self, client: Any, item: GenerationInput, settings: GenerationSettings, n: int = 1
    ) -> list[Generation]:
        """Complete one item n times, in one request if the server supports it. An assistant prefill is continued.

        Some servers ignore a prefill. `models.choice_logprobs` checks for this.

        Raises:
            ServerGone: The server gives no usable answer.
            UserError: The server refuses the request.
        """
        read = partial(read_reply, prefilled=bool(item.prefill))
        options = {"n": n, "extra_body": {"return_token_ids": True}} if n > 1 else {}
        try:
            generations = self.request(client, item, settings, read, **options)[:n]
        except Refused:
            if n == 1:
                raise
            generations = []
        while len(generations) < n:
            again = replace(settings, seed=settings.seed + len(generations))
            generations += self.request(client, item, again, read)[:1]
        return generations

    def request(
        self,
        client: Any,
        item: GenerationInput,
        settings: GenerationSettings,
        read: Callable[[Mapping[str, Any]], T],
        **options: Any,
    ) -> T:
        """Send a request, and read the reply.

        Args:
            client: A client for the server.
            item: The conversation to complete.
            settings: Length limit and sampling settings.
            read: Function of the reply. If it raises a `BadReply` with `again` set, the request is repeated.
            **options: Further fields of the request.

        Raises:
            ServerGone: The server gives no usable answer after all attempts.
            Refused: The server refuses the request.
            UserError: The server refuses the model, or repeating the request would not give an answer.
        """
        for attempt in range(1, _BAD_REPLIES + 1):
            with self._as_user_errors():
                reply = self._send(client.chat.completions.with_raw_response.create, item, settings, **options)
            try:
                return read(read_json(reply.content))
            except BadReply as error:
                if not error.again or attempt == _BAD_REPLIES:
                    raise self._no_answer(item, error) from error
            time.sleep(self.pause * 2 ** (attempt - 1))
        raise AssertionError

    def tokenize(self, client: Any, text: str) -> list[int]:
        """Token ids of a text, from the server's `/tokenize` endpoint.

        Raises:
            Refused: The server has no such endpoint.
            ServerGone: The server does not reply.
        """
        address = f"{self.url.rstrip('/').removesuffix('/v1')}/tokenize"
        body = {"model": self.name, "prompt": text, "add_special_tokens": False}
        try:
            with self._as_user_errors():
                reply = client.post(address, body=body, cast_to=object)
            return list(reply["tokens"])
        except (Refused, KeyError, TypeError) as error:
            raise Refused(f"{self.url} has no /tokenize ({error})") from error

    def _no_answer(self, item: GenerationInput, error: BadReply) -> UserError:
        """Make the error for a reply without an answer. Its message quotes the question."""
        content = item.prompt[-1]["content"]
        question = content if isinstance(content, str) else " ".join(piece.get("text", "") for piece in content)
        message = f"{self.url} gave no answer to {shorten(question)[:80]!r}: {error}"
        if not error.again:
            return UserError(f"{message}. It is not counted as wrong; take the question out, or ask another server.")
        return ServerGone(f"{message}. Check the server, then run the same command again: finished answers are kept.")

    def _send(self, create: Any, item: GenerationInput, settings: GenerationSettings, **options: Any) -> Any:
        """Send a request. If the server refuses fields that are not in OpenAI's API, send it again without them."""
        from openai import BadRequestError, UnprocessableEntityError

        messages, extra = _with_images(item), options.pop("extra_body", {})
        if item.prefill:
            messages.append({"role": "assistant", "content": item.prefill})
            extra = {**extra, **_CONTINUE}
        request = {
            "model": self.name,
            "messages": messages,
            "max_tokens": settings.max_new_tokens,
            "temperature": settings.temperature,
            "top_p": 1.0,
            "seed": (settings.seed + item.seed) % 2**31,
            **options,
        }
        if not self._refused:
            try:
                return create(**request, extra_body={**_WHOLE_DISTRIBUTION, **extra})
            except (BadRequestError, UnprocessableEntityError) as error:
                if not any(name in str(error) for name in _WHOLE_DISTRIBUTION):
                    raise
            self._refused.update(_WHOLE_DISTRIBUTION)
            names = ", ".join(_WHOLE_DISTRIBUTION)
            print(f"{self.url} refuses {names}: it applies its own values.", file=sys.stderr)
        return create(**request, extra_body=extra)

    @contextmanager
    def _as_user_errors(self) -> Iterator[None]:
        """Convert exceptions of the client to `UserError` and its subclasses."""
        from openai import APIConnectionError, APIStatusError, OpenAIError

        try:
            yield
        except APIConnectionError as error:
            raise ServerGone(
                f"{self.url} does not answer ({type(error).__name__}, {self.retries + 1} tries). Start the server, "
                "then run the same command again: finished answers are kept."
            ) from error
        except APIStatusError as error:
            status = error.status_code
            message = shorten(error.message if isinstance(error.body, dict) else error.response.text or error.message)
            if 300 <= status < 400:
                target = shorten(error.response.headers.get("location", "an address it does not tell"))
                message = f"it redirects to {target}, which is not followed; name that address if you trust it"
            kind = Refused if status in _REFUSALS else ServerGone if status >= 500 else UserError
            raise kind(f"{self.url} refuses {self.name!r} with status {status}: {message}") from error
        except OpenAIError as error:
            raise UserError(f"{self.url}: {shorten(str(error))}") from error


Job = Callable[[ServerGenerator, Any], T]
"""A function that completes one job with the given server and client, and returns the result."""


@dataclass(slots=True, kw_only=True)
class ServerPool(Generator):
    """Several servers with the same model, which take their requests from one queue.

    A server that stops replying is reported on stderr and no longer used. Its items go to the other servers.
    """

    servers: tuple[ServerGenerator, ...]
    _gone: dict[str, ServerGone] = field(init=False, default_factory=dict)

    def iterate(
        self, items: Sequence[GenerationInput], settings: GenerationSettings, done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Generation]]]:
        """See `Generator`.

        Raises:
            UserError: All servers have failed, a server refuses a request, or the number of images of an item differs
                from the number of its image placeholders.
        """
        for index, item in enumerate(items):
            check_images(index, item)
        wanted = [index for index in range(len(items)) if index not in done]

        def job(index: int) -> Job[list[Generation]]:
            return lambda server, client: server.complete(client, items[index], settings)

        for position, generations in self.run([job(index) for index in wanted]):
            yield [(wanted[position], generations[0])]

    def alive(self) -> list[ServerGenerator]:
        """The servers that have not failed.

        Raises:
            UserError: All servers have failed.
        """
        servers = [server for server in self.servers if server.url not in self._gone]
        if not servers:
            names = ", ".join(server.url for server in self.servers)
            raise UserError(
                f"None of the servers answers: {names}. The last one: {[*self._gone.values()][-1]} Start them, then "
                "run the same command again: finished answers are kept."
            )
        return servers

    def leave_out(self, server: ServerGenerator, error: ServerGone) -> None:
        """Stop using a server, and report it on stderr. If it is the only server, raise its error."""
        if len(self.servers) == 1:
            raise error
        if server.url not in self._gone:
            self._gone[server.url] = error
            print(f"Left out from here on: {error}", file=sys.stderr)

    def run(self, jobs: Sequence[Job[T]]) -> Iterator[tuple[int, T]]:
        """Run jobs, each on any server; yield their indices and results as they finish.

        Raises:
            UserError: All servers have failed, or a server refuses a request.
        """
        waiting = deque(enumerate(jobs))
        running: dict[Future[T], tuple[ServerGenerator, int]] = {}
        failure: BaseException | None = None
        with ExitStack() as stack:
            clients = {server.url: stack.enter_context(server.client()) for server in self.alive()}
            # One entry for each request that a server can still take.
            free = deque(server for server in self.alive() for _ in range(server.concurrency))
            pool = stack.enter_context(ThreadPoolExecutor(max_workers=len(free)))
            while waiting or running:
                while waiting and free:
                    server = free.popleft()
                    if server.url not in self._gone:
                        index, job = waiting.popleft()
                        running[pool.submit(job, server, clients[server.url])] = server, index
                if not running:
                    self.alive()
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    server, index = running.pop(future)
                    free.append(server)
                    error = future.exception()
                    if error is None:
                        yield index, future.result()
                    elif isinstance(error, ServerGone) and len(self.servers) > 1:
                        self.leave_out(server, error)
                        waiting.append((index, jobs[index]))
                    else:
                        failure = failure or error
                if failure is not None:
                    # Running jobs finish; no new jobs start.
                    waiting.clear()
        if failure is not None:
            raise failure


def server_generators(model: str, concurrency: int = 8) -> list[ServerGenerator]:
    """Make a generator for each server in a model name.

    Args:
        model: `openai:URL#NAME`, or `openai:URL,URL,...#NAME`.
        concurrency: Maximum number of concurrent requests per server.

    Raises:
        UserError: The name has another form.
    """
    urls, mark, name = model.removeprefix(PREFIX).partition("#")
    return [
        ServerGenerator.parse(f"{PREFIX}{url.strip()}{mark}{name}", concurrency)
        for url in dict.fromkeys(urls.split(","))
    ]


def _with_images(item: GenerationInput) -> list[dict[str, Any]]:
    """The conversation in OpenAI's format. Each placeholder is replaced by its image as a PNG data URL."""
    images = iter(item.images)

    def content(piece: Mapping[str, Any]) -> dict[str, Any]:
        if piece["type"] != "image":
            return dict(piece)
        stream = io.BytesIO()
        next(images).save(stream, "PNG")
        png = base64.b64encode(stream.getvalue()).decode()
        return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{png}"}}

    return [
        {"role": m["role"], "content": m["content"] if isinstance(m["content"], str) else [*map(content, m["content"])]}
        for m in item.prompt
    ]
