"""Assistant prefill and letter probabilities on servers. Test requests show which features a server supports."""

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
# One prefill has closed reasoning. The other has open reasoning and ends in a space, which some templates strip.
_ENDED = "<think>\nRed is a color. It is the color of blood.</think>\n<answer>"
_BEGUN = "<think>\nRed is a color. It is the "
_OPENINGS = ("", "<think>", "<think>\n")
"""Texts with which a chat template may open the response. The prefills above start with them as well."""
_TOKEN = GenerationSettings(max_new_tokens=1)
_TOP = 20
"""Largest `top_logprobs` that OpenAI's API allows, and that vLLM allows by default."""

_METHODS: dict[str, Callable[[Sequence[int], Sequence[str]], dict[str, Any]]] = {
    "logprob_token_ids": lambda ids, _: {"logprob_token_ids": ids},
    "allowed_token_ids": lambda ids, _: {"allowed_token_ids": ids},
    "structured_outputs": lambda _, texts: {"structured_outputs": {"choice": texts}},
    "top_logprobs": lambda *_: {},
}
"""Scoring methods in order of preference. Each makes the request fields that ask for the log-probabilities of tokens,
from their ids and texts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scoring:
    """The method and tokens with which a server scores option letters.

    Attributes:
        method: Scoring method, a key of `_METHODS`.
        joined: Number of characters at the end of the prefill that the tokenizer merges with the letter. They are
            not sent.
        ids: Token id of each letter, starting with A.
        texts: Text of each of these tokens, including the merged characters.
    """

    method: str
    joined: int
    ids: list[int]
    texts: list[str]

    def values(self, logprobs: Mapping[str, float]) -> list[float]:
        """Log-probability of each letter; minus infinity if the server did not report it."""
        pairs = zip(self.ids, self.texts, strict=True)
        return [logprobs.get(f"token_id:{token}", logprobs.get(text, -math.inf)) for token, text in pairs]

    def worked(self, logprobs: Mapping[str, float]) -> bool:
        """Whether a reply shows that the server supports the method. The test prompt must make letters improbable."""
        values = self.values(logprobs)
        if self.method == "top_logprobs":
            return len(logprobs) > 1
        # A server that allows only the letters gives them a total probability of 1.
        constrained = self.method == "logprob_token_ids" or sum(map(math.exp, values)) > 0.99
        return constrained and -math.inf not in values


@dataclass(slots=True, kw_only=True)
class PrefillServer:
    """Assistant prefill and letter scoring on one server, with checks that the server supports them."""

    server: ServerGenerator
    _results: dict[int, Scoring | str] = field(init=False, default_factory=dict)
    """By number of letters: how they are scored, or why they cannot be. The key 0 stands for prefill alone."""

    def check(self, n_letters: int = 0) -> str:
        """Check whether the server continues a prefill and, unless `n_letters` is 0, scores this many letters.

        Returns:
            "" if it does, otherwise the reason why not.

        Raises:
            ServerGone: The server does not reply.
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
        """Probabilities of the letters after the item's prefill; they sum to 1.

        If the server supports only `top_logprobs`, a letter that is not among the most probable tokens has probability
        0. The result is empty if no letter is among these tokens. Call `check` first.
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
        """Check by the reported number of prompt tokens that two test prefills were used in full; return ""."""
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
