"""Assistant prefill and letter probabilities on a server: find out what it supports, by requests, and use it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from medvlm_r1.data.sample import LETTERS
from medvlm_r1.models.choice_logprobs import letter_place
from medvlm_r1.models.generate import GenerationInput, GenerationSettings
from medvlm_r1.models.remote import Refused, ServerGenerator
from medvlm_r1.models.remote_reply import read_logprobs, read_prompt_use

_QUESTION = GenerationInput(prompt=[{"role": "user", "content": "Name a color."}])
# Reasoning that has ended, and reasoning that goes on after a space, which some templates strip.
_ENDED = "<think>\nRed is a color. It is the color of blood.</think>\n<answer>"
_BEGUN = "<think>\nRed is a color. It is the "
_OPENINGS = ("", "<think>", "<think>\n")
"""Texts with which a chat template may begin the response, and which a prefill then repeats."""
_TOKEN = GenerationSettings(max_new_tokens=1)
_TOP = 20
"""Most `top_logprobs` that OpenAI's interface has, and that vLLM gives by default."""

_METHODS: dict[str, Callable[[Sequence[int], Sequence[str]], dict[str, Any]]] = {
    "logprob_token_ids": lambda ids, _: {"logprob_token_ids": ids},
    "allowed_token_ids": lambda ids, _: {"allowed_token_ids": ids},
    "structured_outputs": lambda _, texts: {"structured_outputs": {"choice": texts}},
    "top_logprobs": lambda *_: {},
}
"""Fields of a request that make a server report the log-probabilities of these tokens, best first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """How a server scores letters.

    Attributes:
        method: A key of `_METHODS`.
        joined: Characters at the end of the prefill that the tokenizer joins with the letter; they are not sent.
        ids: Token id of each letter, A first.
        texts: Text of each of these tokens.
    """

    method: str
    joined: int
    ids: list[int]
    texts: list[str]

    def values(self, logprobs: Mapping[str, float]) -> list[float]:
        """Log-probability of each letter; minus infinity where the server did not report it."""
        pairs = zip(self.ids, self.texts, strict=True)
        return [logprobs.get(f"token_id:{token}", logprobs.get(text, -math.inf)) for token, text in pairs]

    def worked(self, logprobs: Mapping[str, float]) -> bool:
        """Whether the server did what it was asked for, judged by its reply where letters are improbable."""
        values = self.values(logprobs)
        if self.method == "top_logprobs":
            return len(logprobs) > 1
        # A server that allows the letters alone gives them all of the probability.
        constrained = self.method == "logprob_token_ids" or sum(map(math.exp, values)) > 0.99
        return constrained and -math.inf not in values


@dataclass(slots=True, kw_only=True)
class PrefillServer:
    """A server that continues assistant prefills and scores letters after them, as far as it can."""

    server: ServerGenerator
    _results: dict[int, Scoring | str] = field(init=False, default_factory=dict)
    """By number of letters, 0 for prefill alone: how letters are scored, or why not."""

    def check(self, n_letters: int = 0) -> str:
        """Why the server does not score this many letters, or for 0, continue a prefill; "" if it does.

        Raises:
            ServerGone: It does not answer.
        """
        if n_letters not in self._results:
            reason = n_letters and self.check()
            self._results[n_letters] = reason or self._find(n_letters)
        result = self._results[n_letters]
        return result if isinstance(result, str) else ""

    def _find(self, n_letters: int) -> Scoring | str:
        try:
            with self.server.client() as client:
                return self._scoring(client, n_letters) if n_letters else self._check_prefill(client)
        except Refused as error:
            return str(error)

    def letter_probabilities(self, client: Any, item: GenerationInput, n_letters: int) -> tuple[float, ...]:
        """Probabilities of the letters after the item's prefill, which sum to 1.

        With `top_logprobs` alone, a letter that is not among the most probable tokens has probability 0. Empty where
        none is. Call `check` before.
        """
        scoring = self._results[n_letters]
        assert isinstance(scoring, Scoring)
        values = scoring.values(self._logprobs(client, item, scoring))
        highest = max(values)
        if highest == -math.inf:
            return ()
        weights = [math.exp(value - highest) for value in values]
        return tuple(weight / sum(weights) for weight in weights)

    def _logprobs(self, client: Any, item: GenerationInput, scoring: Scoring) -> dict[str, float]:
        extra = {"return_tokens_as_token_ids": True, **_METHODS[scoring.method](scoring.ids, scoring.texts)}
        options: dict[str, Any] = {"logprobs": True, "extra_body": extra}
        if scoring.method != "logprob_token_ids":
            options["top_logprobs"] = _TOP
        item = replace(item, prefill=item.prefill[: len(item.prefill) - scoring.joined])
        return self.server.request(client, item, _TOKEN, read_logprobs, **options)

    def _check_prefill(self, client: Any) -> str:
        """Compare numbers of prompt tokens with those of the prefill, in replies to two of them."""
        lengths = {text: len(self.server.tokenize(client, text)) for text in (_ENDED, _BEGUN, *_OPENINGS[1:])}
        lengths[""] = 0
        uses = {}
        for text in ("", _ENDED, _BEGUN):
            item = replace(_QUESTION, prefill=text)
            tokens, separate = self.server.request(client, item, replace(_TOKEN, max_new_tokens=8), read_prompt_use)
            if tokens is None:
                raise Refused(f"{self.server.url} does not report the number of prompt tokens")
            if separate:
                raise Refused(f"{self.server.url} returns reasoning separately; start it without a reasoning parser")
            uses[text] = tokens
        surplus = {text: uses[text] - uses[""] - lengths[text] for text in (_ENDED, _BEGUN)}
        if surplus[_ENDED] == surplus[_BEGUN] and -surplus[_BEGUN] in [lengths[text] for text in _OPENINGS]:
            return ""
        if uses[_ENDED] <= uses[_BEGUN]:
            raise Refused(f"the chat template of {self.server.url} removes the reasoning from an assistant prefill")
        raise Refused(f"{self.server.url} does not continue an assistant prefill as it is")

    def _scoring(self, client: Any, n_letters: int) -> Scoring:
        def tokenizer(texts: Sequence[str], **_: Any) -> Mapping[str, list[list[int]]]:
            return {"input_ids": [self.server.tokenize(client, text) for text in texts]}

        try:
            position = letter_place(tokenizer, _ENDED, n_letters)
        except ValueError as error:
            raise Refused(f"{self.server.url}: {error}") from error
        ends = range(len(_ENDED), len(_ENDED) - 9, -1)
        end = next((end for end in ends if self.server.tokenize(client, _ENDED[:end]) == list(position.context)), None)
        if end is None:
            raise Refused(f"the tokenizer of {self.server.url} does not separate the letter from what precedes it")
        tail, reason = _ENDED[end:], ""
        for method in _METHODS:
            texts = [tail + letter for letter in LETTERS[:n_letters]]
            scoring = Scoring(method=method, joined=len(tail), ids=list(position.candidates), texts=texts)
            try:
                logprobs = self._logprobs(client, replace(_QUESTION, prefill=_BEGUN + tail), scoring)
            except Refused as refusal:
                reason = f" ({refusal})"
                continue
            if scoring.worked(logprobs):
                return scoring
        raise Refused(f"{self.server.url} reports no log-probabilities of letters{reason}")
