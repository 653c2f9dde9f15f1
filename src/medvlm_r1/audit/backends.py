"""Audit backends for local models and for models on servers, and the functions that open them."""

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from medvlm_r1.audit.variant import (
    AuditBackend,
    IndexedAnswers,
    Variant,
    VariantAnswer,
    answer_from_generation,
    scored_choice,
)
from medvlm_r1.models.choice_logprobs import PrefillServer, letter_probabilities
from medvlm_r1.models.device import limit_threads
from medvlm_r1.models.generate import GenerationSettings, LocalGenerator
from medvlm_r1.models.load import Policy, load_policy
from medvlm_r1.models.remote import ServerGenerator, ServerGone, ServerPool, is_server, server_generators


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorAuditBackend(AuditBackend):
    """Audit backend for a local model whose family cannot share prompts: every variant is a separate prompt."""

    policy: Policy
    template: str = "medvlm-r1"
    max_new_tokens: int = 512

    def iterate(self, variants: Sequence[Variant], done: Collection[int] = ()) -> Iterator[IndexedAnswers]:
        """Answer the variants; see `AuditBackend.iterate`."""
        inputs = [variant.generation_input(self.template) for variant in variants]
        # All greedy variants form one batch. Sampled variants of an item have different names and must not share a
        # seed, so there is one batch for each name.
        batches: dict[tuple[float, str], list[int]] = {}
        for index, variant in enumerate(variants):
            if not variant.letter_only:
                name = variant.name if variant.temperature > 0 else ""
                batches.setdefault((variant.temperature, name), []).append(index)
            elif index not in done:
                n_options = len(variant.sample.options)
                [probabilities] = letter_probabilities(self.policy, [inputs[index]], [variant.prefix], [n_options])
                yield [(index, scored_choice(variant, probabilities))]
        for (temperature, _), members in batches.items():
            seed = variants[members[0]].seed
            settings = GenerationSettings(max_new_tokens=self.max_new_tokens, temperature=temperature, seed=seed)
            finished = {position for position, index in enumerate(members) if index in done}
            generator = LocalGenerator(policy=self.policy)
            for pairs in generator.iterate([inputs[index] for index in members], settings, finished):
                yield [
                    (members[position], answer_from_generation(variants[members[position]], generation, self.template))
                    for position, generation in pairs
                ]


class ServerAuditBackend(AuditBackend):
    """Audit backend for a model on one or several servers.

    Equal variants are answered by one request. Several samples of one prompt also share a request, if the server
    supports it.

    Args:
        servers: The servers that receive the requests.
        template: Name of the prompt template.
        max_new_tokens: Token limit; longer completions are cut off.
    """

    def __init__(self, servers: Sequence[ServerGenerator], *, template: str, max_new_tokens: int) -> None:
        self._pool = ServerPool(servers=tuple(servers))
        self._prefill = {server.url: PrefillServer(server=server) for server in servers}
        self._template, self._max_new_tokens = template, max_new_tokens

    def refusal(self, variant: Variant) -> str:
        """Return the reason why a variant cannot be answered, or "" if it can.

        Every reachable server must be able to answer it. Each server is tested once, and the result is reused.
        """
        if not variant.prefix:
            return ""
        for server in self._pool.alive():
            try:
                if reason := self._prefill[server.url].check(len(variant.sample.options) * variant.letter_only):
                    return reason
            except ServerGone as error:
                self._pool.leave_out(server, error)
        return ""

    def iterate(self, variants: Sequence[Variant], done: Collection[int] = ()) -> Iterator[IndexedAnswers]:
        """Answer the variants, and yield the answers reply by reply; see `AuditBackend.iterate`."""
        requests: dict[tuple[Any, ...], list[int]] = {}
        for index, variant in enumerate(variants):
            prompt = str(variant.generation_input(self._template).prompt)
            # A sampled answer also depends on the item's seed, so different items do not share a request.
            item = variant.sample.id if variant.temperature > 0 else ""
            key = (prompt, *map(id, variant.images), variant.prefix, variant.letter_only, variant.temperature, item)
            requests.setdefault(key, []).append(index)
        answered = set(done)
        groups = [indices for indices in requests.values() if not answered.issuperset(indices)]
        jobs = [partial(self._answer, [variants[index] for index in indices]) for indices in groups]
        for position, answers in self._pool.run(jobs):
            yield list(zip(groups[position], answers, strict=True))

    def _answer(self, variants: Sequence[Variant], server: ServerGenerator, client: Any) -> list[VariantAnswer]:
        """Answer equal variants with one request."""
        first, n = variants[0], len(variants)
        item = first.generation_input(self._template)
        if first.letter_only:
            support = self._prefill[server.url]
            probabilities = support.letter_probabilities(client, item, len(first.sample.options))
            return [scored_choice(variant, probabilities) for variant in variants]
        settings = GenerationSettings(
            max_new_tokens=self._max_new_tokens, temperature=first.temperature, seed=first.seed
        )
        generations = server.complete(client, item, settings, n if settings.samples else 1)
        return [
            answer_from_generation(variant, generation, self._template)
            for variant, generation in zip(variants, generations if settings.samples else generations * n, strict=True)
        ]


class LazyAuditBackend(AuditBackend):
    """Audit backend that is created when the first answer is needed, so that a finished audit loads no model.

    Args:
        make: Creates the backend.
    """

    def __init__(self, make: Callable[[], AuditBackend]) -> None:
        self._backend = cache(make)

    def iterate(self, variants: Sequence[Variant], done: Collection[int] = ()) -> Iterator[IndexedAnswers]:
        """Answer the variants; see `AuditBackend.iterate`."""
        if variants:
            yield from self._backend().iterate(variants, done)


def open_audit_backend(
    model: str, template: str, max_new_tokens: int, concurrency: int, dtype: str = "auto"
) -> AuditBackend:
    """Open the audit backend of a model. A local model is loaded when its first answer is needed.

    Args:
        model: A folder, a Hub id, "phantom-base", or "openai:URL#NAME" for a model on a server.
        template: Name of the prompt template.
        max_new_tokens: Token limit; longer completions are cut off.
        concurrency: Number of concurrent requests to a server.
        dtype: Dtype of a local model, as in `load_policy`.

    Raises:
        UserError: The name of a server is malformed. If a local model cannot be loaded, the error is raised at the
            first answer.
    """
    if is_server(model):
        servers = server_generators(model, concurrency)
        return ServerAuditBackend(servers, template=template, max_new_tokens=max_new_tokens)
    return LazyAuditBackend(
        lambda: local_audit_backend(load_policy(model, dtype=dtype), template=template, max_new_tokens=max_new_tokens)
    )


def local_audit_backend(policy: Policy, *, template: str, max_new_tokens: int) -> AuditBackend:
    """Create the fastest audit backend that supports a loaded policy."""
    # Both modules import torch, which the audit of a model on a server does not need.
    from medvlm_r1.audit.local_backend import LocalAuditBackend
    from medvlm_r1.models.families import supports

    limit_threads(policy.model)
    kind = LocalAuditBackend if supports(policy.model) is None else GeneratorAuditBackend
    return kind(policy=policy, template=template, max_new_tokens=max_new_tokens)
