"""Base class of the probes, and their input and result types.

A probe defines the variants of a question that it needs. A pure function then turns their answers into a result.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from PIL.Image import Image

from medvlm_r1.audit.variant import FRAME, AuditedItem, Variant, VariantAnswer
from medvlm_r1.data.sample import Sample
from medvlm_r1.models.shown import box_frame

Level = Literal["pass", "warn", "fail", "not run"]
Judged = tuple[Level, str]
"""A verdict and the sentence that explains it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """One measured number with its sample size and interval.

    Attributes:
        value: A share from 0 to 1, a difference of two shares, a ratio, or another quantity; `unit` tells which.
        n: Number of values from which it was computed, usually one per item.
        ci95: 95 % interval; None if no interval is defined.
        unit: "share", "difference" (of two shares), "ratio", or "" for any other quantity.
        about: Short description of what is measured.
    """

    value: float
    n: int
    ci95: tuple[float, float] | None = None
    unit: Literal["share", "difference", "ratio", ""] = "share"
    about: str = ""

    @property
    def ends(self) -> tuple[float, float]:
        """Lower and upper end of the interval; minus and plus infinity if there is no interval."""
        return self.ci95 or (-math.inf, math.inf)

    @property
    def count(self) -> int:
        """Number of items that a share corresponds to: `value` times `n`, rounded."""
        return round(self.value * self.n)

    @property
    def percent(self) -> str:
        """The value in percent, such as "41 %"."""
        return f"{100 * self.value:.0f} %"

    @property
    def span(self) -> str:
        """The value in percent with its interval, such as "41 % (32 to 50)"."""
        low, high = self.ends
        return f"{self.percent} ({100 * low:.0f} to {100 * high:.0f})"


@dataclass(frozen=True, slots=True, kw_only=True)
class PartialResult:
    """Measures, example items and details of one part of a probe; `ProbeResult` describes the fields."""

    measures: Mapping[str, Measure] = field(default_factory=dict)
    items: Mapping[str, Sequence[str]] = field(default_factory=dict)
    detail: Mapping[str, Any] = field(default_factory=dict)


def merge(*partial_results: PartialResult) -> PartialResult:
    """Merge partial results in order. No name may occur in more than one of them."""
    names = ("measures", "items", "detail")
    return PartialResult(
        **{name: {k: v for partial in partial_results for k, v in getattr(partial, name).items()} for name in names}
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """The result of one probe.

    Attributes:
        name: The probe's name.
        verdict: "pass", "warn" or "fail". It is "not run" if no verdict could be reached, for example with too few
            items.
        sentence: The finding in plain words, with figures. For "not run", it gives the reason.
        measures: The measures by name, in the order of the report.
        items: Ids of example items, grouped by what they illustrate, such as "same answer without the image".
        detail: Curves and tables for the report, as JSON values.
        thresholds: The thresholds on which the verdict is based, by name of the measure.
    """

    name: str
    verdict: Level
    sentence: str
    measures: Mapping[str, Measure] = field(default_factory=dict)
    items: Mapping[str, Sequence[str]] = field(default_factory=dict)
    detail: Mapping[str, Any] = field(default_factory=dict)
    thresholds: Mapping[str, Any] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """Convert the result to JSON values: tuples become lists, and keys become strings."""
        record: dict[str, Any] = json.loads(json.dumps(asdict(self), allow_nan=False))
        return record


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeInput:
    """One item, from which a probe makes its variants.

    Attributes:
        sample: The original sample.
        images: Its images in order, as RGB.
        others: Images of another item of the same modality, as many as in `images`; empty if there is no such item.
        seed: The item's random seed, the same in every run.
        template: Name of the prompt template, as in `medvlm_r1.prompts.templates`.
        wrong: Answer of another question of the data, for a wrong hint; None if the question has options.
        processor: Image processor of a local model that is asked for boxes; None if the model is shown whole images.
    """

    sample: Sample
    images: tuple[Image, ...]
    others: tuple[Image, ...]
    seed: int
    template: str
    wrong: str | None = None
    processor: Any = None

    def variant(self, name: str, **changes: Any) -> Variant:
        """Make a variant that differs from the original question only in the given fields of `Variant`.

        If the template asks for boxes, the note also holds the coordinates in which the answer states them.
        """
        variant = Variant(**{"name": name, "sample": self.sample, "images": self.images, **changes})
        frame = box_frame([image.size for image in variant.images], self.template, self.processor)
        return variant if frame is None else replace(variant, note={**variant.note, FRAME: asdict(frame)})


class Probe:
    """Base class of the probes. A probe overrides `measure`, and also `first` or `then` if it needs variants.

    Attributes:
        name: Name of the probe.
        needs_options: Whether the probe makes no sense for open questions.
    """

    name: str
    needs_options = False

    def first(self, probe_input: ProbeInput) -> Sequence[Variant]:
        """Make the variants that do not depend on the answer to the original question; none by default."""
        return []

    def then(self, probe_input: ProbeInput, real: VariantAnswer) -> Sequence[Variant]:
        """Make the variants that depend on the answer to the original question.

        For example, a variant continues from the answer's reasoning after it was cut short. By default, there are none.

        Args:
            probe_input: The item.
            real: The answer to the original question.
        """
        return []

    def measure(self, items: Sequence[AuditedItem]) -> ProbeResult:
        """Compute the result from at least one audited item. This is a pure function; `judged` sorts the items by id.

        An item may lack answers to some variants, for example because it has no image or its answer has no reasoning.
        """
        raise NotImplementedError

    def result(self, judged: Judged, *, excluded: str = "", **fields: Any) -> ProbeResult:
        """Build the probe's result.

        Args:
            judged: The verdict and its sentence.
            excluded: A note that is appended to the sentence, for example on excluded items.
            **fields: Other fields of `ProbeResult`.
        """
        verdict, sentence = judged
        return ProbeResult(name=self.name, verdict=verdict, sentence=f"{sentence} {excluded}".rstrip(), **fields)
