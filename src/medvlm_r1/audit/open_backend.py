"""The backend that answers an audit's variants of one model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from medvlm_r1.audit.backends import GeneratorRespondent, Respondent, StreamingRespondent, as_answered
from medvlm_r1.audit.variant import Variant, VariantAnswer
from medvlm_r1.models.generate import LocalGenerator
from medvlm_r1.models.load import Policy, load_policy
from medvlm_r1.models.remote import is_server
from medvlm_r1.models.remote_pool import server_generator
from medvlm_r1.models.threads import limit_threads


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
    # Both import torch; the audit of a model on a server runs without it.
    from medvlm_r1.audit.local_backend import LocalRespondent
    from medvlm_r1.models.families import supports

    limit_threads(policy.model)
    settings: dict[str, Any] = {"template": template, "max_new_tokens": max_new_tokens}
    if supports(policy.model) is None:
        return LocalRespondent(policy=policy, **settings)
    return GeneratorRespondent(generator=LocalGenerator(policy=policy), policy=policy, **settings)
