"""Generation by a server with OpenAI's chat interface (vLLM, SGLang and others), behind the same protocol.

A model on a server is named `openai:URL#NAME`, as in `openai:http://localhost:8000/v1#Qwen/Qwen2-VL-2B-Instruct`. Only
the address named is asked; a key is read from the environment variable OPENAI_API_KEY.
"""

from __future__ import annotations

import base64
import io
import os
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from PIL.Image import Image

from medvlm_r1.dialogue.response import with_reasoning_opened
from medvlm_r1.errors import UserError
from medvlm_r1.policy.generate import Generation, GenerationInput, GenerationSettings, check_images

PREFIX = "openai:"
_RETRIES = 5
_SECONDS = 600.0


def is_server(model: str) -> bool:
    """Whether a model's name stands for one on a server."""
    return model.startswith(PREFIX)


class ServerGone(UserError):
    """A server does not answer, or only that it cannot (5xx), after all tries."""


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

    Failed connections, time-outs and the statuses 408, 409, 429 and 5xx are tried again, with growing pauses.
    """

    url: str
    """Base address, such as http://localhost:8000/v1."""
    name: str
    """The model's name on the server."""
    concurrency: int = 8
    """Requests under way at most."""
    retries: int = _RETRIES
    """Tries beyond the first, for each request."""

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
        check_items(items)
        client = self.client()
        with client, ThreadPoolExecutor(max_workers=self.concurrency) as pool:
            futures = [pool.submit(self.complete, client, item, settings) for item in items]
            try:
                return [future.result() for future in futures]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def client(self) -> Any:
        """A client of the server, to be closed after use.

        Raises:
            UserError: The `openai` package is not there.
        """
        try:
            from openai import OpenAI
        except ImportError as error:
            raise UserError("Models on a server need the openai package: pip install 'medvlm-r1[server]'.") from error
        return OpenAI(
            base_url=self.url,
            api_key=os.environ.get("OPENAI_API_KEY") or "none",
            max_retries=self.retries,
            timeout=_SECONDS,
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
        with self._told():
            reply = client.chat.completions.create(**self._request(item, settings))
        return _generation(reply, self.url)

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
            kind = ServerGone if error.status_code >= 500 else UserError
            raise kind(f"{self.url} refuses {self.name!r} with status {error.status_code}: {error.message}") from error
        except OpenAIError as error:
            raise UserError(f"{self.url}: {error}") from error


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
        reason, thinking, count = None, False, 0
        with (
            server.client() as client,
            server._told(),
            client.chat.completions.create(**server._request(item, settings), stream=True) as chunks,
        ):
            for chunk in chunks:
                for choice in chunk.choices:
                    reason = choice.finish_reason or reason
                    reasoning = _reasoning(choice.delta)
                    piece = choice.delta.content or ""
                    if reasoning:
                        piece, thinking = ("" if thinking else "<think>") + reasoning, True
                    elif thinking and piece:
                        piece, thinking = f"</think>{piece}", False
                    if piece:
                        count += 1
                        told.append(piece)
                        yield piece
        text = with_reasoning_opened("".join(told))
        self.generation = Generation(text=text, n_tokens=count, truncated=reason == "length")


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


def _generation(reply: Any, url: str) -> Generation:
    try:
        choice = reply.choices[0]
        message, reason = choice.message, choice.finish_reason
    except (AttributeError, IndexError, TypeError) as error:
        raise UserError(f"{url} answers, but not in the form of OpenAI's chat completions.") from error
    text = message.content or ""
    reasoning = _reasoning(message)
    text = f"<think>{reasoning}</think>{text}" if reasoning else with_reasoning_opened(text)
    used = getattr(reply.usage, "completion_tokens", None)
    return Generation(text=text, n_tokens=len(text.split()) if used is None else used, truncated=reason == "length")


def _reasoning(told: Any) -> str | None:
    """What a server that parses reasoning hands over apart, without its tags; by two names, as servers differ."""
    return getattr(told, "reasoning_content", None) or getattr(told, "reasoning", None)
