"""Audit backends of models in this process and on a server, and how to open them."""

from __future__ import annotations

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
from medvlm_r1.models.choice_logprobs import letter_probabilities
from medvlm_r1.models.device import limit_threads
from medvlm_r1.models.generate import GenerationSettings, LocalGenerator
from medvlm_r1.models.load import Policy, load_policy
from medvlm_r1.models.remote import ServerGenerator, ServerGone, ServerPool, is_server, server_generators
from medvlm_r1.models.remote_prefill import PrefillServer


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorAuditBackend(AuditBackend):
    """A model in this process with a separate prompt per variant: its family cannot share prompts."""

    policy: Policy
    template: str = "medvlm-r1"
    max_new_tokens: int = 512

    def iterate(self, variants: Sequence[Variant], done: Collection[int] = ()) -> Iterator[IndexedAnswers]:
        """See `AuditBackend`."""
        inputs = [variant.generation_input(self.template) for variant in variants]
        # Greedy variants form one batch. Sampled variants of one item differ in name and must not share a seed.
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
            if len(finished) == len(members):
                continue
            generator = LocalGenerator(policy=self.policy)
            for pairs in generator.iterate([inputs[index] for index in members], settings, finished):
                yield [
                    (members[position], answer_from_generation(variants[members[position]], generation, self.template))
                    for position, generation in pairs
                ]


class ServerAuditBackend(AuditBackend):
    """A model on one or several servers.

    Equal variants share one request. So do several samples of one prompt, if the server supports it.

    Args:
        servers: The servers.
        template: Name of the prompt template.
        max_new_tokens: Longer completions are cut off.
    """

    def __init__(self, servers: Sequence[ServerGenerator], *, template: str, max_new_tokens: int) -> None:
        self._pool = ServerPool(servers=tuple(servers))
        self._prefill = {server.url: PrefillServer(server=server) for server in servers}
        self._template, self._max_new_tokens = template, max_new_tokens

    def refusal(self, variant: Variant) -> str:
        """See `AuditBackend`. Every server must be able to answer; each is checked once."""
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
        """See `AuditBackend`; yields reply by reply."""
        requests: dict[tuple[Any, ...], list[int]] = {}
        for index, variant in enumerate(variants):
            prompt = str(variant.generation_input(self._template).prompt)
            # Sampled answers depend on the item too, by its seed.
            item = variant.sample.id if variant.temperature > 0 else ""
            key = (prompt, *map(id, variant.images), variant.prefix, variant.letter_only, variant.temperature, item)
            requests.setdefault(key, []).append(index)
        answered = set(done)
        groups = [indices for indices in requests.values() if not answered.issuperset(indices)]
        jobs = [partial(self._answer, [variants[index] for index in indices]) for indices in groups]
        for position, answers in self._pool.run(jobs):
            yield list(zip(groups[position], answers, strict=True))

    def _answer(self, variants: Sequence[Variant], server: ServerGenerator, client: Any) -> list[VariantAnswer]:
        """The answers to equal variants, by one request."""
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
    """A local backend that is made for the first answer, so that a finished audit loads no model."""

    def __init__(self, make: Callable[[], AuditBackend]) -> None:
        self._backend = cache(make)

    def iterate(self, variants: Sequence[Variant], done: Collection[int] = ()) -> Iterator[IndexedAnswers]:
        """See `AuditBackend`."""
        if variants:
            yield from self._backend().iterate(variants, done)


def open_audit_backend(
    model: str, template: str, max_new_tokens: int, concurrency: int, dtype: str = "auto"
) -> AuditBackend:
    """The backend of a model, which is loaded for the first answer.

    Args:
        model: A folder, a hub id, "phantom-base" or "openai:URL#NAME".
        template: Name of the prompt template.
        max_new_tokens: Longer completions are cut off.
        concurrency: Concurrent requests to a server.
        dtype: Dtype of a local model, as in `load_policy`.

    Raises:
        UserError: The name of a server is malformed. A model that cannot be loaded raises at the first answer.
    """
    settings: dict[str, Any] = {"template": template, "max_new_tokens": max_new_tokens}
    if is_server(model):
        return ServerAuditBackend(server_generators(model, concurrency), **settings)
    return LazyAuditBackend(lambda: local_audit_backend(load_policy(model, dtype=dtype), **settings))


def local_audit_backend(policy: Policy, *, template: str, max_new_tokens: int) -> AuditBackend:
    """The fastest backend with the same answers as the loaded policy."""
    # Both import torch; the audit of a model on a server runs without it.
    from medvlm_r1.audit.local_backend import LocalAuditBackend
    from medvlm_r1.models.families import supports

    limit_threads(policy.model)
    settings: dict[str, Any] = {"template": template, "max_new_tokens": max_new_tokens}
    if supports(policy.model) is None:
        return LocalAuditBackend(policy=policy, **settings)
    return GeneratorAuditBackend(policy=policy, **settings)
