"""Who answers the variants of an audit, behind one protocol: a policy in this process, or a server."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from medvlm_r1.audit.variant import Variant, VariantAnswer, item_seed, weighed, written
from medvlm_r1.dialogue.prompt import messages
from medvlm_r1.policy.generate import (
    Generation,
    GenerationInput,
    GenerationSettings,
    Generator,
    LocalGenerator,
    as_finished,
)
from medvlm_r1.policy.letters import letter_probabilities
from medvlm_r1.policy.load import Policy, load_policy
from medvlm_r1.policy.server import is_server
from medvlm_r1.policy.server_pool import server_generator
from medvlm_r1.policy.threads import limit_threads


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


class LazyRespondent(StreamingRespondent):
    """A respondent that is made when first something is to be answered: a finished audit loads no model.

    Attributes:
        local: As of the respondent it stands for.
    """

    def __init__(self, make: Callable[[], Respondent], *, local: bool) -> None:
        self._make = make
        self._made: Respondent | None = None
        self.local = local

    def iterate(
        self, variants: Sequence[Variant], done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, VariantAnswer]]]:
        """As `StreamingRespondent`."""
        if variants and self._made is None:
            self._made = self._make()
        if self._made is not None:
            yield from as_answered(self._made, variants, done)


def respondent_for(model: str, template: str, max_new_tokens: int, concurrency: int) -> Respondent:
    """The respondent for a model, which is loaded when it is first asked.

    Args:
        model: A folder, a hub id, "phantom-base" or "openai:URL#NAME".
        template: Name of the prompt template.
        max_new_tokens: Longer completions are cut off.
        concurrency: Requests to a server under way.

    Raises:
        UserError: The name of a server has another form. A model that cannot be loaded is told when it is first asked.
    """
    settings: dict[str, Any] = {"template": template, "max_new_tokens": max_new_tokens}
    if is_server(model):
        return GeneratorRespondent(generator=server_generator(model, concurrency=concurrency), **settings)
    return LazyRespondent(lambda: local_respondent(load_policy(model), **settings), local=True)


def local_respondent(policy: Policy, *, template: str, max_new_tokens: int) -> Respondent:
    """The fastest respondent that gives a loaded policy's own answers."""
    from medvlm_r1.audit.respond_shared import LocalRespondent
    from medvlm_r1.training.families import supports

    limit_threads(policy.model)
    settings: dict[str, Any] = {"template": template, "max_new_tokens": max_new_tokens}
    if supports(policy.model) is None:
        return LocalRespondent(policy=policy, **settings)
    return GeneratorRespondent(generator=LocalGenerator(policy=policy), policy=policy, **settings)
