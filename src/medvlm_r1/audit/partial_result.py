"""Partial results of a probe: merge them, and finalize them into a `ProbeResult`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from medvlm_r1.audit.probe import Level, Measure, ProbeResult


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialResult:
    """Measures, items and detail of one part of a probe; see `ProbeResult`."""

    measures: Mapping[str, Measure] = field(default_factory=dict)
    items: Mapping[str, Sequence[str]] = field(default_factory=dict)
    detail: Mapping[str, Any] = field(default_factory=dict)


def merge(*parts: PartialResult) -> PartialResult:
    """Merge partial results in order. A name may occur in one of them only."""
    merged: dict[str, dict[str, Any]] = {"measures": {}, "items": {}, "detail": {}}
    for part in parts:
        for kind, found in merged.items():
            added = getattr(part, kind)
            assert not found.keys() & added.keys()
            found.update(added)
    return PartialResult(**merged)


def finalize(
    name: str, judged: tuple[Level, str], found: PartialResult, thresholds: Mapping[str, Any], *, left_out: str = ""
) -> ProbeResult:
    """Build the result of a probe.

    Args:
        name: The probe's name.
        judged: Verdict and sentence.
        found: The merged partial results.
        thresholds: The thresholds of the verdict.
        left_out: What the figures do not cover; appended to the sentence.
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
