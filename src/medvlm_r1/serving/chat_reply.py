"""From what the engine tells to OpenAI's objects: whole completions, and chunks of a stream."""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from anyio import to_thread

from medvlm_r1.errors import RESEARCH_USE
from medvlm_r1.policy.generate import Generation
from medvlm_r1.serving.answer import Answer
from medvlm_r1.serving.api_errors import ApiError, from_exception
from medvlm_r1.serving.job import Done, Event, Failed, Job, Piece, Started, Token

_HALF = "\N{REPLACEMENT CHARACTER}"


@dataclass(slots=True, kw_only=True)
class Reply:
    """One request's answer in the making."""

    model: str
    job: Job
    events: asyncio.Queue[Event]
    tokenizer: Any
    include_usage: bool = False
    read: Callable[[Sequence[Generation]], list[Answer]] | None = None
    """From completions to the answers in them, where those are wanted; it asks the model."""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")
    created: int = field(default_factory=lambda: int(time.time()))

    async def start(self) -> None:
        """Wait until the prompt has been read.

        Raises:
            ApiError: It cannot be.
        """
        event = await self.events.get()
        if isinstance(event, Failed):
            raise from_exception(event.error) from event.error
        assert isinstance(event, Started)
        self.prompt_tokens = event.prompt_tokens

    async def whole(self) -> dict[str, Any]:
        """A `chat.completion`.

        Raises:
            ApiError: The model failed.
        """
        done: dict[int, Done] = {}
        while len(done) < self.job.n:
            event = await self.events.get()
            if isinstance(event, Failed):
                raise from_exception(event.error) from event.error
            if isinstance(event, Done):
                done[event.index] = event
                self.completion_tokens += event.generation.n_tokens
        read = await self._read([done[index].generation for index in range(self.job.n)])
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": done[index].generation.text, "refusal": None},
                "finish_reason": done[index].reason,
                "logprobs": self._logprobs(done[index].tokens),
                **answer,
            }
            for index, answer in enumerate(read)
        ]
        return {**self._head("chat.completion"), "choices": choices, "usage": self._usage()}

    async def chunks(self) -> AsyncIterator[str]:
        """The lines of an event stream of `chat.completion.chunk`s."""
        told = [0] * self.job.n
        left = self.job.n
        for index in range(self.job.n):
            yield self._chunk(index, {"role": "assistant", "content": ""})
        while left:
            event = await self.events.get()
            if isinstance(event, Failed):
                yield _line(from_exception(event.error).body())
                return
            if isinstance(event, Piece):
                told[event.index] += len(event.tokens)
                yield self._chunk(event.index, {"content": event.text}, tokens=event.tokens)
            elif isinstance(event, Done):
                left -= 1
                self.completion_tokens += event.generation.n_tokens
                # Tokens behind which there was no text of their own.
                rest = event.tokens[told[event.index] :]
                try:
                    [answer] = await self._read([event.generation])
                except ApiError as error:
                    yield _line(error.body())
                    return
                yield self._chunk(event.index, {}, tokens=rest, reason=event.reason, more=answer)
        if self.include_usage:
            yield _line({**self._head("chat.completion.chunk"), "choices": [], "usage": self._usage()})
        yield "data: [DONE]\n\n"

    async def _read(self, generations: Sequence[Generation]) -> list[dict[str, Any]]:
        """For each completion the field `answer` of its choice, or nothing where it is not wanted."""
        if self.read is None:
            return [{} for _ in generations]
        try:
            answers = await to_thread.run_sync(self.read, generations)
        except Exception as error:
            raise from_exception(error) from error
        return [{"answer": answer.as_record()} for answer in answers]

    def _head(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": None,
            "notice": RESEARCH_USE,
        }

    def _usage(self) -> dict[str, int]:
        read, written = self.prompt_tokens, self.completion_tokens
        return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}

    def _chunk(
        self,
        index: int,
        delta: dict[str, str],
        *,
        tokens: Sequence[Token] = (),
        reason: str | None = None,
        more: Mapping[str, Any] | None = None,
    ) -> str:
        logprobs = self._logprobs(tokens) if tokens else None
        choice = {"index": index, "delta": delta, "finish_reason": reason, "logprobs": logprobs, **(more or {})}
        return _line({**self._head("chat.completion.chunk"), "choices": [choice]})

    def _logprobs(self, tokens: Sequence[Token]) -> dict[str, Any] | None:
        if self.job.top_logprobs is None:
            return None
        content = [
            {**self._token(one.id, one.logprob), "top_logprobs": [self._token(*best) for best in one.top]}
            for one in tokens
        ]
        return {"content": content, "refusal": None}

    def _token(self, token: int, logprob: float) -> dict[str, Any]:
        text = self.tokenizer.decode([token])
        return {"token": text, "logprob": logprob, "bytes": None if _HALF in text else list(text.encode())}


def _line(record: dict[str, Any]) -> str:
    return f"data: {json.dumps(record)}\n\n"
