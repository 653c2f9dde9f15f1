"""Next-token probabilities of the option letters after an assistant prefill, for a local policy or a server.

Test requests show whether a server continues an assistant prefill, and how it reports the probabilities of letters.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from medvlm_r1.data.sample import LETTERS
from medvlm_r1.models.generate import GenerationInput, GenerationSettings, check_images, prompt_and_prefill
from medvlm_r1.models.load import Policy
from medvlm_r1.models.remote import Refused, ServerGenerator
from medvlm_r1.models.remote_reply import read_logprobs, read_prompt_use


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterPlace:
    """The token position at which the model chooses an option letter after an assistant prefill.

    Attributes:
        context: Token ids of the prefill up to that position. A tokenizer may merge the end of the prefill with the
            letter (into `>B`, for example). The context is then shorter than the prefill.
        candidates: Token id of each letter at that position, starting with A.
    """

    context: tuple[int, ...]
    candidates: tuple[int, ...]


def letter_place(tokenizer: Any, prefill: str, n_options: int) -> LetterPlace:
    """Find the first token position at which the option letters after `prefill` differ.

    Args:
        tokenizer: The policy's tokenizer.
        prefill: The assistant prefill.
        n_options: Number of options, 1 to 10.

    Raises:
        ValueError: Two letters have the same token at that position, so the next token does not distinguish them.
    """
    # A single letter has nothing to differ from, so it is compared with the next letter.
    offered = LETTERS[: max(2, n_options)]
    endings = tokenizer([prefill + letter for letter in offered], add_special_tokens=False)["input_ids"]
    shortest = min(map(len, endings))
    parting = next((i for i in range(shortest) if len({ids[i] for ids in endings}) > 1), shortest)
    candidates = tuple(ids[parting] for ids in endings if parting < len(ids))
    if len(set(candidates)) < len(offered):
        raise ValueError(f"the tokenizer does not tell the letters A to {offered[-1]} apart by one token")
    return LetterPlace(context=tuple(endings[0][:parting]), candidates=candidates[:n_options])


def letter_probabilities(
    policy: Policy, items: Sequence[GenerationInput], prefills: Sequence[str], n_options: Sequence[int]
) -> list[tuple[float, ...]]:
    """Next-token probability of each option letter, normalized over the option letters.

    Args:
        policy: The policy.
        items: Conversations with their images; their own `prefill` is ignored.
        prefills: The assistant prefill of each item, which usually ends in `<answer>`.
        n_options: Number of options of each item.

    Returns:
        For each item, one probability per letter, starting with A. They sum to 1.

    Raises:
        UserError: The number of images of an item differs from the number of its image placeholders.
        ValueError: Two letters have the same next token; see `letter_place`.
    """
    import torch

    for index, item in enumerate(items):
        check_images(index, item)
    processor = policy.processor
    prompts = [prompt_and_prefill(processor, replace(item, prefill=p)) for item, p in zip(items, prefills, strict=True)]
    positions = [letter_place(processor.tokenizer, p, n) for (_, p), n in zip(prompts, n_options, strict=True)]
    results: list[tuple[float, ...]] = []
    with torch.inference_mode():
        # Items run one at a time without padding, so an item has the same probabilities in any batch.
        for item, (text, _), position in zip(items, prompts, positions, strict=True):
            inputs = processor(text=[text], images=list(item.images) or None, return_tensors="pt")
            context = torch.tensor([position.context], dtype=inputs["input_ids"].dtype)
            longer = {"input_ids": context, "attention_mask": torch.ones_like(context)}
            # Token types: 0 is text.
            longer |= {name: torch.zeros_like(context) for name in inputs if name.endswith("token_type_ids")}
            for name, more in longer.items():
                inputs[name] = torch.cat([inputs[name], more.to(inputs[name])], dim=1)
            logits = policy.model(**inputs.to(policy.model.device), logits_to_keep=1, use_cache=False).logits[0, -1]
            chosen = torch.softmax(logits[list(position.candidates)].double(), dim=0)
            results.append(tuple(chosen.tolist()))
    return results


_QUESTION = GenerationInput(prompt=[{"role": "user", "content": "Name a color."}])
# One prefill has closed reasoning. The other has open reasoning and ends in a space, which some templates strip.
_ENDED = "<think>\nRed is a color. It is the color of blood.</think>\n<answer>"
_BEGUN = "<think>\nRed is a color. It is the "
_OPENINGS = ("", "<think>", "<think>\n")
"""Texts with which a chat template may open the response. The two test prefills above start with each of them."""
_TOKEN = GenerationSettings(max_new_tokens=1)
_TOP = 20
"""Largest `top_logprobs` that OpenAI's API allows, and that vLLM allows by default."""

_METHODS: dict[str, Callable[[Sequence[int], Sequence[str]], dict[str, Any]]] = {
    "logprob_token_ids": lambda ids, _: {"logprob_token_ids": ids},
    "allowed_token_ids": lambda ids, _: {"allowed_token_ids": ids},
    "structured_outputs": lambda _, texts: {"structured_outputs": {"choice": texts}},
    "top_logprobs": lambda *_: {},
}
"""Scoring methods in order of preference. Each is a function of the letters' token ids and texts. It returns the
request fields with which the server reports the log-probabilities of these tokens."""


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
    """For each number of letters, the scoring method, or the reason why there is none. The key 0 stands for prefill
    alone."""

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
