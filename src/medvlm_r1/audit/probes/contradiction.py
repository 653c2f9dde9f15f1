"""Contradiction: is the answer another option than the reasoning concludes (arXiv 2505.23945)?"""

from __future__ import annotations

from collections.abc import Sequence

from medvlm_r1.audit.measures import cluster, share_of_pairs
from medvlm_r1.audit.partial_result import PartialResult
from medvlm_r1.audit.variant import AuditedItem
from medvlm_r1.prompts.conclusion import contradicts


def contradiction(item: AuditedItem) -> bool | None:
    """Whether the real answer contradicts its reasoning; None where either names no option."""
    options = item.sample.options
    return contradicts(item.real.response(options).reasoning, item.real.letter, options)


def measure(items: Sequence[AuditedItem]) -> PartialResult:
    """Share of contradictions among the answers whose reasoning concludes an option. Needs no variant."""
    found = [(item, contradiction(item)) for item in items]
    judged = [(item, odds) for item, odds in found if odds is not None]
    if not judged:
        return PartialResult(items={"reasoning without a conclusion": [item.sample.id for item, _ in found]})
    return PartialResult(
        measures={
            "contradiction": share_of_pairs(
                [(odds, cluster(item)) for item, odds in judged],
                "another option answered than the reasoning concludes, among those that conclude one",
            )
        },
        items={
            "answer against its reasoning": [item.sample.id for item, odds in judged if odds],
            "reasoning without a conclusion": [item.sample.id for item, odds in found if odds is None],
        },
    )
