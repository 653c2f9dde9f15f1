"""What a probe of a model is: the variants it asks, and the pure function from the answers to a result."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

from PIL.Image import Image

from medvlm_r1.audit.variant import AuditedItem, Variant, VariantAnswer
from medvlm_r1.data.sample import Sample

Level = Literal["pass", "warn", "fail", "not run"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One number.

    Attributes:
        value: A share from 0 to 1, a difference of shares, or what `unit` says.
        n: Items behind it.
        ci95: 95 % interval; None where none is defined.
        unit: "share", "difference" (of shares), "ratio", or "" for anything else.
        about: One line for people: what it is.
    """

    value: float
    n: int
    ci95: tuple[float, float] | None = None
    unit: Literal["share", "difference", "ratio", ""] = "share"
    about: str = ""

    @property
    def ends(self) -> tuple[float, float]:
        """The interval; without one nothing is known of where the value would lie for other subjects."""
        return self.ci95 or (-math.inf, math.inf)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """What one probe found.

    Attributes:
        name: The probe's.
        verdict: "not run" when it could not be or there are too little data, with the reason as the sentence.
        sentence: The finding in plain words, figures included.
        measures: By name, in the order to be read.
        items: Ids of the items behind it, by what they show ("same answer without the image").
        detail: Curves and tables for figures, in values that JSON knows.
        thresholds: What the verdict was judged by, by name of the measure.
    """

    name: str
    verdict: Level
    sentence: str
    measures: Mapping[str, Measure] = field(default_factory=dict)
    items: Mapping[str, Sequence[str]] = field(default_factory=dict)
    detail: Mapping[str, Any] = field(default_factory=dict)
    thresholds: Mapping[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """All of it as JSON has it: lists for tuples, texts for keys."""
        record: dict[str, Any] = json.loads(json.dumps(asdict(self), allow_nan=False))
        return record


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a probe makes its variants from.

    Attributes:
        sample: The question as it stands; it has options.
        images: Its images, RGB, in order.
        others: Images of another item of the same modality, as many; empty when there is no other item.
        seed: A number of this item's own, the same in every run.
        template: Name of the prompt template, as in `medvlm_r1.prompts.templates`.
    """

    sample: Sample
    images: tuple[Image, ...]
    others: tuple[Image, ...]
    seed: int
    template: str


class Probe(Protocol):
    """One probe. `measure` is pure; all that needs the model is in the variants. `AsksNothing` is its usual base."""

    name: str
    local: bool
    """Whether it needs a model in this process (prefixes, letter probabilities); it is not run on servers then."""

    def first(self, asked: Asked) -> Sequence[Variant]:
        """The variants that do not depend on the real answer."""
        ...

    def then(self, asked: Asked, real: VariantAnswer) -> Sequence[Variant]:
        """The variants made from the real answer (its reasoning cut short, changed, ...)."""
        ...

    def measure(self, items: Sequence[AuditedItem]) -> ProbeResult:
        """The result. There is an item at least; items may lack variants (no image to take away, no reasoning)."""
        ...


class AsksNothing:
    """The variants of a probe that reads the real answers alone; a probe that asks for more overrides what it needs."""

    local = False

    def first(self, asked: Asked) -> Sequence[Variant]:
        """None."""
        return []

    def then(self, asked: Asked, real: VariantAnswer) -> Sequence[Variant]:
        """None."""
        return []
