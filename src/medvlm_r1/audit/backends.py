"""Audit backends of models in this process and on a server, and how to open them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from medvlm_r1.audit.variant import AuditBackend, IndexedAnswers, Variant, answer_from_generation, scored_choice
from medvlm_r1.models.choice_logprobs import letter_probabilities
from medvlm_r1.models.device import limit_threads
from medvlm_r1.models.generate import GenerationSettings, Generator, LocalGenerator, as_finished
from medvlm_r1.models.load import Policy, load_policy
from medvlm_r1.models.remote import is_server, server_generator


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorAuditBackend(AuditBackend):
    """Any generator, with a separate prompt per variant: a server, or a family whose prompts cannot be shared."""

    generator: Generator
    template: str = "medvlm-r1"
    max_new_tokens: int = 512
    policy: Policy | None = None
    """The model in this process; None for no letter probabilities."""

    @property
    def local(self) -> bool:
        """Whether the model is in this process."""
        return self.policy is not None

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
                assert self.policy is not None
                n_options = len(variant.sample.options)
                [probabilities] = letter_probabilities(self.policy, [inputs[index]], [variant.prefix], [n_options])
                yield [(index, scored_choice(variant, probabilities))]
        for (temperature, _), members in batches.items():
            seed = variants[members[0]].seed
            settings = GenerationSettings(max_new_tokens=self.max_new_tokens, temperature=temperature, seed=seed)
            finished = {position for position, index in enumerate(members) if index in done}
            if len(finished) == len(members):
                continue
            for pairs in as_finished(self.generator, [inputs[index] for index in members], settings, finished):
                yield [
                    (members[position], answer_from_generation(variants[members[position]], generation, self.template))
                    for position, generation in pairs
                ]


class LazyAuditBackend(AuditBackend):
    """A local backend that is made for the first answer, so that a finished audit loads no model."""

    local = True

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
        return GeneratorAuditBackend(generator=server_generator(model, concurrency=concurrency), **settings)
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
    return GeneratorAuditBackend(generator=LocalGenerator(policy=policy), policy=policy, **settings)
