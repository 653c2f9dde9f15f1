"""Probes: the variants that a probe asks for, and a pure function from their answers to a result."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from PIL.Image import Image

from medvlm_r1.audit.variant import AuditedItem, Variant, VariantAnswer
from medvlm_r1.data.sample import Sample

Level = Literal["pass", "warn", "fail", "not run"]
Judged = tuple[Level, str]
"""A verdict and its sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One number.

    Attributes:
        value: A share from 0 to 1, a difference of shares, or what `unit` says.
        n: Items behind it.
        ci95: 95 % interval; None where none is defined.
        unit: "share", "difference" (of shares), "ratio", or "" for anything else.
        about: One line that says what is measured.
    """

    value: float
    n: int
    ci95: tuple[float, float] | None = None
    unit: Literal["share", "difference", "ratio", ""] = "share"
    about: str = ""

    @property
    def ends(self) -> tuple[float, float]:
        """The interval; without one, minus and plus infinity."""
        return self.ci95 or (-math.inf, math.inf)

    @property
    def count(self) -> int:
        """Number of items that a share stands for."""
        return round(self.value * self.n)

    def interval(self, form: str = ".0%") -> str:
        """The interval in brackets, each end in a number format."""
        low, high = self.ends
        return f"[{low:{form}}, {high:{form}}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialResult:
    """Measures, items and detail of one part of a probe; see `ProbeResult`."""

    measures: Mapping[str, Measure] = field(default_factory=dict)
    items: Mapping[str, Sequence[str]] = field(default_factory=dict)
    detail: Mapping[str, Any] = field(default_factory=dict)


def merge(*partial_results: PartialResult) -> PartialResult:
    """Merge partial results in order. A name occurs in one of them only."""
    measures: dict[str, Measure] = {}
    items: dict[str, Sequence[str]] = {}
    detail: dict[str, Any] = {}
    for partial in partial_results:
        measures |= partial.measures
        items |= partial.items
        detail |= partial.detail
    return PartialResult(measures=measures, items=items, detail=detail)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """The result of one probe.

    Attributes:
        name: The probe's name.
        verdict: "not run" on a server without assistant prefill, or with too few data; the sentence has the reason.
        sentence: The finding in plain words, with figures.
        measures: By name, in reading order.
        items: Ids of example items, by what they show ("same answer without the image").
        detail: Curves and tables for the report, as JSON values.
        thresholds: The thresholds of the verdict, by name of the measure.
    """

    name: str
    verdict: Level
    sentence: str
    measures: Mapping[str, Measure] = field(default_factory=dict)
    items: Mapping[str, Sequence[str]] = field(default_factory=dict)
    detail: Mapping[str, Any] = field(default_factory=dict)
    thresholds: Mapping[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """The result as JSON values: lists for tuples, strings for keys."""
        record: dict[str, Any] = json.loads(json.dumps(asdict(self), allow_nan=False))
        return record


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeInput:
    """One item as input of a probe, from which it makes its variants.

    Attributes:
        sample: The question as it is; it has options.
        images: Its images, RGB, in order.
        others: As many images of another item of the same modality; empty when there is no other item.
        seed: The item's own number, the same in every run.
        template: Name of the prompt template, as in `medvlm_r1.prompts.templates`.
    """

    sample: Sample
    images: tuple[Image, ...]
    others: tuple[Image, ...]
    seed: int
    template: str

    def variant(self, name: str, **changes: Any) -> Variant:
        """A variant of the question: as it is, except for these fields of `Variant`."""
        return Variant(**{"name": name, "sample": self.sample, "images": self.images, **changes})


class Probe:
    """Base of probes. A probe overrides what it needs."""

    name: str

    def first(self, probe_input: ProbeInput) -> Sequence[Variant]:
        """The variants that do not depend on the real answer; none by default."""
        return []

    def then(self, probe_input: ProbeInput, real: VariantAnswer) -> Sequence[Variant]:
        """The variants made from the real answer, such as its reasoning cut or changed; none by default."""
        return []

    def measure(self, items: Sequence[AuditedItem]) -> ProbeResult:
        """The result of at least one item, as a pure function. Items may lack variants (no image, no reasoning)."""
        raise NotImplementedError

    def result(self, judged: Judged, *, excluded: str = "", **fields: Any) -> ProbeResult:
        """Build the result.

        Args:
            judged: Verdict and sentence.
            excluded: What the figures do not cover; appended to the sentence.
            **fields: Other fields of `ProbeResult`.
        """
        verdict, sentence = judged
        return ProbeResult(name=self.name, verdict=verdict, sentence=f"{sentence} {excluded}".rstrip(), **fields)
