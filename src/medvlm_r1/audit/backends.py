"""Backends of an audit: one protocol for a model in this process and a model on a server."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from medvlm_r1.audit.variant import Variant, VariantAnswer, item_seed, parsed_answer, scored_choice
from medvlm_r1.models.choice_logprobs import letter_probabilities
from medvlm_r1.models.generate import (
    Generation,
    GenerationInput,
    GenerationSettings,
    Generator,
    as_finished,
)
from medvlm_r1.models.load import Policy
from medvlm_r1.prompts.templates import messages


class AuditBackend(Protocol):
    """Generates the answers to variants."""

    @property
    def local(self) -> bool:
        """Whether it supports prefixes and letter probabilities."""
        ...

    def answer(self, variants: Sequence[Variant]) -> list[VariantAnswer]:
        """The answers, in the order of the variants."""
        ...


class StreamingAuditBackend:
    """A backend that yields answers as soon as they are complete."""

    __slots__ = ()

    def answer(self, variants: Sequence[Variant]) -> list[VariantAnswer]:
        """The answers, in the order of the variants."""
        answers = dict(pair for pairs in self.iterate(variants) for pair in pairs)
        return [answers[position] for position in range(len(answers))]

    def iterate(
        self, variants: Sequence[Variant], done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, VariantAnswer]]]:
        """Answer the variants except those in `done`.

        Batches are made of all variants. A resumed run therefore computes the rest in the same batches and gets the
        same numbers, bit by bit.

        Args:
            variants: All variants of the call.
            done: Indices of variants that an earlier, interrupted call with the same variants answered.

        Yields:
            Indices with their answers, for each batch or reply. Some of `done` may be among them.
        """
        raise NotImplementedError


def stream_answers(
    backend: AuditBackend, variants: Sequence[Variant], done: Collection[int] = ()
) -> Iterator[list[tuple[int, VariantAnswer]]]:
    """`StreamingAuditBackend.iterate` for any backend, without the answers in `done`."""
    if isinstance(backend, StreamingAuditBackend):
        for answered in backend.iterate(variants, done):
            if new := [(position, answer) for position, answer in answered if position not in done]:
                yield new
        return
    wanted = [position for position in range(len(variants)) if position not in done]
    if wanted:
        yield list(zip(wanted, backend.answer([variants[position] for position in wanted]), strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorAuditBackend(StreamingAuditBackend):
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

    def iterate(
        self, variants: Sequence[Variant], done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, VariantAnswer]]]:
        """See `StreamingAuditBackend`."""
        inputs = [variant_input(variant, self.template) for variant in variants]
        # Greedy variants form one batch. Sampled variants of one item differ in name and must not share a seed.
        batches: dict[tuple[float, str], list[int]] = {}
        for index, variant in enumerate(variants):
            if not variant.letter_only:
                name = variant.name if variant.temperature > 0 else ""
                batches.setdefault((variant.temperature, name), []).append(index)
            elif index not in done:
                assert self.policy is not None
                n_options = len(variant.sample.options)
                [shares] = letter_probabilities(self.policy, [inputs[index]], [variant.prefix], [n_options])
                yield [(index, scored_choice(variant, shares))]
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


def variant_input(variant: Variant, template: str) -> GenerationInput:
    """A variant as input of a generator."""
    return GenerationInput(
        prompt=messages(variant.sample, template),
        images=variant.images,
        prefill=variant.prefix,
        seed=item_seed(variant.sample),
    )


def answer_from_generation(variant: Variant, generation: Generation, template: str) -> VariantAnswer:
    """The answer to a variant from the text generated after its prefix."""
    return parsed_answer(
        variant,
        variant.prefix + generation.text,
        n_tokens=generation.n_tokens,
        truncated=generation.truncated,
        template=template,
    )
