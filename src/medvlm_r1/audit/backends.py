"""Who answers the variants of an audit, behind one protocol: a policy in this process, or a server."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from medvlm_r1.audit.variant import Variant, VariantAnswer, item_seed, weighed, written
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


class Respondent(Protocol):
    """Anything that answers variants."""

    @property
    def local(self) -> bool:
        """Whether it takes prefixes and weighs letters."""
        ...

    def answer(self, variants: Sequence[Variant]) -> list[VariantAnswer]:
        """The answers, in the order of the variants."""
        ...


class StreamingRespondent:
    """A respondent that hands answers over as soon as they are finished."""

    __slots__ = ()

    def answer(self, variants: Sequence[Variant]) -> list[VariantAnswer]:
        """The answers, in the order of the variants."""
        answers = dict(pair for pairs in self.iterate(variants) for pair in pairs)
        return [answers[index] for index in range(len(answers))]

    def iterate(
        self, variants: Sequence[Variant], done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, VariantAnswer]]]:
        """Answer the variants but those in `done`.

        Batches are made of all variants. So a run that was interrupted, and has `done` from before, computes the rest
        in the same batches and gets the same numbers, bit by bit.

        Args:
            variants: All of one call.
            done: Indices of those that were answered by an earlier, interrupted call with the same variants.

        Yields:
            Indices with their answers, for each batch or reply. Some of `done` may be among them.
        """
        raise NotImplementedError


def as_answered(
    respondent: Respondent, variants: Sequence[Variant], done: Collection[int] = ()
) -> Iterator[list[tuple[int, VariantAnswer]]]:
    """As `StreamingRespondent.iterate`, of any respondent, and without what is in `done`."""
    if isinstance(respondent, StreamingRespondent):
        for answered in respondent.iterate(variants, done):
            if new := [(index, answer) for index, answer in answered if index not in done]:
                yield new
        return
    wanted = [index for index in range(len(variants)) if index not in done]
    if wanted:
        yield list(zip(wanted, respondent.answer([variants[index] for index in wanted]), strict=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorRespondent(StreamingRespondent):
    """Answers with any generator, every variant by itself: a server, or a family whose prompts cannot be shared."""

    generator: Generator
    template: str = "medvlm-r1"
    max_new_tokens: int = 512
    policy: Policy | None = None
    """The model in this process; without, no letters are weighed."""

    @property
    def local(self) -> bool:
        """Whether the model is in this process."""
        return self.policy is not None

    def iterate(
        self, variants: Sequence[Variant], done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, VariantAnswer]]]:
        """As `StreamingRespondent`."""
        inputs = [variant_input(variant, self.template) for variant in variants]
        # Greedy variants go together. Sampled ones of one item differ in name, and must not share a seed.
        ways: dict[tuple[float, str], list[int]] = {}
        for place, variant in enumerate(variants):
            if not variant.letter_only:
                name = variant.name if variant.temperature > 0 else ""
                ways.setdefault((variant.temperature, name), []).append(place)
            elif place not in done:
                assert self.policy is not None
                n_options = len(variant.sample.options)
                [shares] = letter_probabilities(self.policy, [inputs[place]], [variant.prefix], [n_options])
                yield [(place, weighed(variant, shares))]
        for (temperature, _), places in ways.items():
            seed = variants[places[0]].seed
            settings = GenerationSettings(max_new_tokens=self.max_new_tokens, temperature=temperature, seed=seed)
            finished = {index for index, place in enumerate(places) if place in done}
            if len(finished) == len(places):
                continue
            for pairs in as_finished(self.generator, [inputs[place] for place in places], settings, finished):
                yield [
                    (places[index], generated(variants[places[index]], generation, self.template))
                    for index, generation in pairs
                ]


def variant_input(variant: Variant, template: str) -> GenerationInput:
    """A variant as a generator takes it."""
    return GenerationInput(
        prompt=messages(variant.sample, template),
        images=variant.images,
        turn=variant.prefix,
        seed=item_seed(variant.sample),
    )


def generated(variant: Variant, generation: Generation, template: str) -> VariantAnswer:
    """The answer to a variant from what was generated after its prefix."""
    return written(
        variant,
        variant.prefix + generation.text,
        n_tokens=generation.n_tokens,
        truncated=generation.truncated,
        template=template,
    )
