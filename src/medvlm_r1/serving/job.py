"""One request as the engine sees it: what is wanted, what has been written, what its reader is told."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from medvlm_r1.policy.generate import Generation, GenerationInput, GenerationSettings

Reason = Literal["stop", "length"]
_HALF = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True)
class Token:
    """A token written, with its log-probability and the most probable ones in its place."""

    id: int
    logprob: float
    top: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Started:
    """The prompt has been read; `prompt_tokens` with those of its images."""

    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Piece:
    """Text added to completion `index`, with the tokens behind it where they were asked for."""

    index: int
    text: str
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True, slots=True)
class Done:
    """Completion `index` has ended."""

    index: int
    generation: Generation
    reason: Reason
    tokens: tuple[Token, ...] = ()


@dataclass(frozen=True, slots=True)
class Failed:
    """The request is over without an answer."""

    error: Exception


Event = Started | Piece | Done | Failed


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """One request."""

    item: GenerationInput
    settings: GenerationSettings
    tell: Callable[[Event], None]
    """Called from the engine's thread; must return at once and never raise."""
    n: int = 1
    """Completions; number i is sampled with the seed + i."""
    top_p: float = 1.0
    """Sampling from the smallest set of tokens with this share of the probability."""
    stop: tuple[str, ...] = ()
    """Texts that end a completion and are not part of it."""
    top_logprobs: int | None = None
    """Log-probabilities of each token written and of so many best ones; None for none."""
    live: bool = False
    """Whether pieces are told as they are written."""
    cancelled: bool = field(default=False, init=False)
    submitted: float = field(default=0.0, init=False)
    """When it came to the queue, by the monotonic clock."""
    started: float = field(default=0.0, init=False)
    """When its prompt had been read, by the monotonic clock."""

    def cancel(self) -> None:
        """Stop it; nothing more is told. Any thread may call it, at any time."""
        self.cancelled = True


class Row:
    """One completion under way; `opening` is what the chat template writes of it. No stop text is looked for there."""

    def __init__(self, job: Job, index: int, tokenizer: Any, most: int, opening: str = "") -> None:
        import torch

        self.job = job
        self.index = index
        self.generator = torch.Generator().manual_seed((job.settings.seed + index) % 2**63)
        self._tokenizer, self._most, self._opening = tokenizer, most, opening
        self._ids: list[int] = []
        self._tokens: list[Token] = []
        self._told = 0
        self._told_tokens = 0

    def add(self, token: int, ends: frozenset[int], scored: Token | None) -> bool:
        """Take a token; tells what there is to tell. Returns whether the completion has ended."""
        job = self.job
        if token in ends:
            self._finish("stop", self._text())
            return True
        self._ids.append(token)
        if scored is not None:
            self._tokens.append(scored)
        full = len(self._ids) >= self._most
        if job.live or job.stop:
            text = self._text()
            cut = first_stop(text, job.stop)
            if cut is not None:
                self._finish("stop", text[:cut])
                return True
            if job.live and not full:
                self._tell(text[: len(text) - held_back(text, job.stop)])
        if full:
            self._finish("length", self._text())
        return full

    def _text(self) -> str:
        return str(self._tokenizer.decode(self._ids, skip_special_tokens=True))

    def _tell(self, text: str) -> None:
        text = self._opening + text
        piece, tokens = text[self._told :], tuple(self._tokens[self._told_tokens :])
        if piece:
            self._told, self._told_tokens = len(text), len(self._tokens)
            self.job.tell(Piece(self.index, piece, tokens))

    def _finish(self, reason: Reason, text: str) -> None:
        if self.job.live:
            self._tell(text)
        generation = Generation(text=self._opening + text, n_tokens=len(self._ids), truncated=reason == "length")
        self.job.tell(Done(self.index, generation, reason, tuple(self._tokens)))


def first_stop(text: str, stops: tuple[str, ...]) -> int | None:
    """Where the first of the stop texts begins; None where none is in the text."""
    found = [place for stop in stops if (place := text.find(stop)) >= 0]
    return min(found, default=None)


def held_back(text: str, stops: tuple[str, ...]) -> int:
    """Characters at the end that may yet change: half a character, or the beginning of a stop text."""
    half = len(text) - len(text.rstrip(_HALF))
    begun = (
        length
        for stop in stops
        for length in range(min(len(stop) - 1, len(text)), 0, -1)
        if text.endswith(stop[:length])
    )
    return max(half, max(begun, default=0))
