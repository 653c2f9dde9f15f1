"""Contradiction: whether the option that the reasoning concludes is the one answered (arXiv 2505.23945)."""

from __future__ import annotations

from collections.abc import Sequence

from medvlm_r1.audit.measures import cluster, share_of_pairs
from medvlm_r1.audit.partial_result import Part
from medvlm_r1.audit.variant import AuditedItem
from medvlm_r1.prompts.conclusion import contradicts


def contradiction(item: AuditedItem) -> bool | None:
    """Whether the real answer is at odds with its reasoning; None where either says nothing."""
    options = item.sample.options
    return contradicts(item.real.response(options).reasoning, item.real.letter, options)


def measure(items: Sequence[AuditedItem]) -> Part:
    """Share of contradictions among the answers whose reasoning concludes an option; no variant is needed."""
    found = [(item, contradiction(item)) for item in items]
    said = [(item, odds) for item, odds in found if odds is not None]
    if not said:
        return Part(items={"reasoning without a conclusion": [item.sample.id for item, _ in found]})
    return Part(
        measures={
            "contradiction": share_of_pairs(
                [(odds, cluster(item)) for item, odds in said],
                "another option answered than the reasoning concludes, of those that conclude one",
            )
        },
        items={
            "answer against its reasoning": [item.sample.id for item, odds in said if odds],
            "reasoning without a conclusion": [item.sample.id for item, odds in found if odds is None],
        },
    )
