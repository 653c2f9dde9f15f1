"""The findings of one part of a probe, how parts are put together, and the result that comes of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medvlm_r1.audit.probe import Level, Measure, ProbeResult


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one part of a probe found; the fields are those of `ProbeResult`."""

    measures: Mapping[str, Measure] = field(default_factory=dict)
    items: Mapping[str, Sequence[str]] = field(default_factory=dict)
    detail: Mapping[str, Any] = field(default_factory=dict)


def together(*parts: Part) -> Part:
    """All findings in the order of the parts; a name stands in one part only."""
    whole: dict[str, dict[str, Any]] = {"measures": {}, "items": {}, "detail": {}}
    for part in parts:
        for kind, found in whole.items():
            more = getattr(part, kind)
            assert not found.keys() & more.keys()
            found.update(more)
    return Part(**whole)


def concluded(
    name: str, judged: tuple[Level, str], found: Part, thresholds: Mapping[str, Any], *, left_out: str = ""
) -> ProbeResult:
    """The result of a probe.

    Args:
        name: The probe's.
        judged: Verdict and sentence.
        found: Everything it found.
        thresholds: What the verdict was judged by.
        left_out: Follows the sentence: what the figures do not cover.
    """
    verdict, sentence = judged
    return ProbeResult(
        name=name,
        verdict=verdict,
        sentence=f"{sentence} {left_out}".rstrip(),
        measures=found.measures,
        items=found.items,
        detail=found.detail,
        thresholds=thresholds,
    )
