"""Open the audit backend of a model."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

from medvlm_r1.audit.backends import AuditBackend, GeneratorAuditBackend, StreamingAuditBackend, stream_answers
from medvlm_r1.audit.variant import Variant, VariantAnswer
from medvlm_r1.models.device import limit_threads
from medvlm_r1.models.generate import LocalGenerator
from medvlm_r1.models.load import Policy, load_policy
from medvlm_r1.models.remote import is_server, server_generator


class LazyAuditBackend(StreamingAuditBackend):
    """A backend that is made for the first answer, so that a finished audit loads no model.

    Attributes:
        local: As in the backend that is made.
    """

    def __init__(self, make: Callable[[], AuditBackend], *, local: bool) -> None:
        self._make = make
        self._made: AuditBackend | None = None
        self.local = local

    def iterate(
        self, variants: Sequence[Variant], done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, VariantAnswer]]]:
        """See `StreamingAuditBackend`."""
        if variants and self._made is None:
            self._made = self._make()
        if self._made is not None:
            yield from stream_answers(self._made, variants, done)


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
    return LazyAuditBackend(lambda: local_audit_backend(load_policy(model, dtype=dtype), **settings), local=True)


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
