"""Generation by a server with OpenAI's chat interface (vLLM, SGLang and others), behind the same protocol.

A model on a server is named `openai:URL#NAME`, as in `openai:http://localhost:8000/v1#Qwen/Qwen2-VL-2B-Instruct`. Only
the address named is asked; a key is read from the environment variable OPENAI_API_KEY.
"""

from __future__ import annotations

import base64
import io
import os
import time
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from PIL.Image import Image

from medvlm_r1.errors import UserError
from medvlm_r1.models.generate import Generation, GenerationInput, GenerationSettings, check_images, in_order
from medvlm_r1.models.remote_reply import BadReply, field, finish, raise_error, read_reply, shorten, texts
from medvlm_r1.prompts.parser import with_reasoning_opened

PREFIX = "openai:"
_RETRIES = 5
_BAD_REPLIES = 3
_SECONDS = 600.0


def is_server(model: str) -> bool:
    """Whether a model's name stands for one on a server."""
    return model.startswith(PREFIX)


class ServerGone(UserError):
    """A server does not answer, only that it cannot (5xx), or in no usable form, after all tries."""


def check_items(items: Sequence[GenerationInput]) -> None:
    """Stop if an item cannot be put to a server.

    Raises:
        UserError: One has another number of images than of image placeholders, or begins the model's turn.
    """
    for index, item in enumerate(items):
        check_images(index, item)
        if item.turn:
            raise UserError(f"Item {index} begins the model's turn, which servers do not take; use a local model.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerGenerator:
    """Completes by asking a server, several questions at a time.

    Failed connections, time-outs and the statuses 408, 409, 429 and 5xx are tried again, with growing pauses. So are
    replies that hold no answer (`models.remote_reply`), up to three times. Redirects are not followed: images and
    questions go to the address that was named and nowhere else.
    """

    url: str
    """Base address, such as http://localhost:8000/v1."""
    name: str
    """The model's name on the server."""
    concurrency: int = 8
    """Requests under way at most."""
    retries: int = _RETRIES
    """Tries beyond the first, for each request."""
    pause: float = 1.0
    """Seconds before the second try after a reply that holds no answer; twice as many before the third."""

    @classmethod
    def parse(cls, model: str, concurrency: int = 8) -> ServerGenerator:
        """From `openai:URL#NAME`.

        Raises:
            UserError: the text has another form.
        """
        url, mark, name = model.removeprefix(PREFIX).partition("#")
        parts = urlsplit(url)
        known = parts.scheme in ("http", "https") and parts.netloc and "," not in url
        if not is_server(model) or not known or not mark or not name:
            raise UserError(
                f"{model!r} does not name a model on a server; wanted openai:URL#NAME, "
                "such as openai:http://localhost:8000/v1#my-model."
            )
        return cls(url=url, name=name, concurrency=concurrency)

    def generate(self, items: Sequence[GenerationInput], settings: GenerationSettings) -> list[Generation]:
        """Complete every item; the results stand in the order of the items.

        Raises:
            UserError: the server cannot be reached or refuses, an item has another number of images than of image
                placeholders, or the `openai` package is not there.
        """
        return in_order(self.iterate(items, settings))

    def iterate(
        self, items: Sequence[GenerationInput], settings: GenerationSettings, done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Generation]]]:
        """As `StreamingGenerator`. When a request fails, those under way are awaited and handed over before the error.

        Raises:
            UserError: as `generate`.
        """
        check_items(items)
        with self.client() as client, ThreadPoolExecutor(max_workers=self.concurrency) as pool:
            futures = {
                pool.submit(self.complete, client, item, settings): index
                for index, item in enumerate(items)
                if index not in done
            }
            try:
                yield from _finished(futures)
            finally:
                pool.shutdown(wait=False, cancel_futures=True)

    def client(self) -> Any:
        """A client of the server, to be closed after use."""
        from openai import DefaultHttpxClient, OpenAI

        return OpenAI(
            base_url=self.url,
            api_key=os.environ.get("OPENAI_API_KEY") or "none",
            max_retries=self.retries,
            timeout=_SECONDS,
            http_client=DefaultHttpxClient(follow_redirects=False),
        )

    def stream(self, item: GenerationInput, settings: GenerationSettings) -> ServerPieces:
        """Complete one item piece by piece; the server is asked when the first piece is.

        Raises:
            UserError: As `generate`, some of it only while the pieces are read.
        """
        check_images(0, item)
        return ServerPieces(self, item, settings)

    def complete(self, client: Any, item: GenerationInput, settings: GenerationSettings) -> Generation:
        """Complete one item.

        Raises:
            ServerGone: The server does not answer.
            UserError: It refuses.
        """
        for attempt in range(1, _BAD_REPLIES + 1):
            with self._told():
                reply = client.chat.completions.with_raw_response.create(**self._request(item, settings))
            try:
                return read_reply(reply.content)
            except BadReply as error:
                if not error.again or attempt == _BAD_REPLIES:
                    raise self._no_answer(item, error) from error
            time.sleep(self.pause * 2 ** (attempt - 1))
        raise AssertionError

    def _no_answer(self, item: GenerationInput, error: BadReply) -> UserError:
        """The error for a reply without an answer, which names the question."""
        content = item.prompt[-1]["content"]
        question = content if isinstance(content, str) else " ".join(part.get("text", "") for part in content)
        told = f"{self.url} gave no answer to {shorten(question)[:80]!r}: {error}"
        if not error.again:
            return UserError(f"{told}. It is not counted as wrong; take the question out, or ask another server.")
        return ServerGone(f"{told}. Check the server, then run the same command again: finished answers are kept.")

    def _request(self, item: GenerationInput, settings: GenerationSettings) -> dict[str, Any]:
        return {
            "model": self.name,
            "messages": _with_images(item),
            "max_tokens": settings.max_new_tokens,
            "temperature": settings.temperature,
            "seed": (settings.seed + item.seed) % 2**31,
        }

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What the client raises, as errors for users."""
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
                place = shorten(error.response.headers.get("location", "an address it does not tell"))
                message = f"it redirects to {place}, which is not followed; name that address if you trust it"
            kind = ServerGone if status >= 500 else UserError
            raise kind(f"{self.url} refuses {self.name!r} with status {status}: {message}") from error
        except OpenAIError as error:
            raise UserError(f"{self.url}: {shorten(str(error))}") from error


class ServerPieces(Iterator[str]):
    """Pieces of one completion as a server sends them.

    Attributes:
        generation: All of it, once the pieces have ended; None before.
    """

    def __init__(self, server: ServerGenerator, item: GenerationInput, settings: GenerationSettings) -> None:
        self.generation: Generation | None = None
        self._server = server
        self._pieces = self._read(item, settings)

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Hang up, which stops most servers' work on it."""
        self._pieces.close()

    def _read(self, item: GenerationInput, settings: GenerationSettings) -> Generator[str, None, None]:
        server = self._server
        told: list[str] = []
        try:
            with (
                server.client() as client,
                server._told(),
                client.chat.completions.create(**server._request(item, settings), stream=True) as chunks,
            ):
                reason = yield from _pieces(chunks, told)
        except BadReply as error:
            raise server._no_answer(item, error) from error
        # A stream that ends without a reason was broken off.
        text = with_reasoning_opened("".join(told))
        self.generation = Generation(text=text, n_tokens=len(told), truncated=reason in ("length", None))


def _pieces(chunks: Any, told: list[str]) -> Generator[str, None, str | None]:
    """The pieces of a stream, which are added to `told` too; returns why the completion ended.

    Raises:
        BadReply: A chunk is an error, or not in the form of OpenAI's, or there is none.
    """
    reason, thinking, empty = None, False, True
    for chunk in _chunks(chunks):
        choices = field(chunk, "choices")
        for choice in choices if isinstance(choices, list) else ():
            empty = False
            reason = finish(choice) or reason
            reasoning, text = texts(field(choice, "delta"))
            piece = text or ""
            if reasoning:
                piece, thinking = ("" if thinking else "<think>") + reasoning, True
            elif thinking and piece:
                piece, thinking = f"</think>{piece}", False
            if piece:
                told.append(piece)
                yield piece
    if empty:
        raise BadReply("the reply is no stream of chat completions")
    return reason


def _chunks(chunks: Any) -> Iterator[Any]:
    from openai import OpenAIError

    try:
        for chunk in chunks:
            raise_error(chunk)
            yield chunk
    except (OpenAIError, BadReply):
        raise
    # The HTTP library's errors are not those of the client, and their classes change with its version.
    except Exception as error:
        raise BadReply(f"the stream broke off ({type(error).__name__}: {shorten(str(error))})") from error


def _finished(futures: Mapping[Future[Generation], int]) -> Iterator[list[tuple[int, Generation]]]:
    """Results as they come. After a failure nothing new is begun, and the error follows what was under way."""
    failure = None
    for future in as_completed(futures):
        if future.cancelled():
            continue
        error = future.exception()
        if error is None:
            yield [(futures[future], future.result())]
        elif failure is None:
            failure = error
            for other in futures:
                other.cancel()
    if failure is not None:
        raise failure


def _with_images(item: GenerationInput) -> list[dict[str, Any]]:
    """The conversation in OpenAI's form, each placeholder replaced by its image as a PNG in a data address."""
    images = iter(item.images)

    def part(given: Mapping[str, Any]) -> dict[str, Any]:
        if given["type"] != "image":
            return dict(given)
        return {"type": "image_url", "image_url": {"url": data_url(next(images))}}

    return [
        {"role": m["role"], "content": m["content"] if isinstance(m["content"], str) else [*map(part, m["content"])]}
        for m in item.prompt
    ]


def data_url(image: Image) -> str:
    """An image as a `data:` address, PNG in base64."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return "data:image/png;base64," + base64.b64encode(stream.getvalue()).decode()
