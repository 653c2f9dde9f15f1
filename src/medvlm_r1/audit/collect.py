"""Collect the answers to the variants of items: which variants, in which order. Nothing here touches the disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL.Image import Image

from medvlm_r1.audit.probe import Probe, ProbeInput
from medvlm_r1.audit.variant import REAL, AuditBackend, AuditedItem, Variant, VariantAnswer, item_seed
from medvlm_r1.data.sample import Sample

Answers = dict[str, VariantAnswer]


def partners(samples: Sequence[Sample]) -> list[int | None]:
    """For each item another one, whose images replace its own.

    Items with the same modality and number of images form a cycle in an order drawn from their ids. No item is its own
    partner, and every item is one other's. The cycle avoids pairs from one subject where it can.

    Args:
        samples: The items, with different ids.

    Returns:
        Indices into `samples`; None for an item without an image or without another item like it.
    """
    groups: dict[tuple[str, int], list[int]] = {}
    for index, sample in enumerate(samples):
        if sample.images:
            groups.setdefault((sample.modality, len(sample.images)), []).append(index)
    partner: list[int | None] = [None] * len(samples)
    for members in groups.values():
        order = sorted(members, key=lambda index: item_seed(samples[index]))
        shift = _shift([samples[index].cluster for index in order])
        if len(order) > 1:
            for rank, index in enumerate(order):
                partner[index] = order[(rank + shift) % len(order)]
    return partner


def _shift(subjects: Sequence[str]) -> int:
    """The smallest step, from 1, that pairs the fewest items of one subject."""
    names = np.unique(np.asarray(subjects), return_inverse=True)[1]
    steps = range(1, min(len(subjects), 64))
    return min(steps, key=lambda step: int((names == np.roll(names, -step)).sum()), default=1)


def collect_responses(
    items: Sequence[ProbeInput],
    probes: Iterable[Probe],
    backend: AuditBackend,
    known: Mapping[str, Mapping[str, VariantAnswer]] | None = None,
    *,
    resumed: Mapping[str, Mapping[str, VariantAnswer]] | None = None,
    save: Callable[[Mapping[str, Answers], int], None] | None = None,
) -> dict[str, Answers]:
    """Collect the answers to every variant of every item that is not known yet.

    Args:
        items: The probe inputs.
        probes: The probes that name the variants.
        backend: Generates the answers; variants that it cannot answer are excluded.
        known: Stored answers, by sample id and name of the variant.
        resumed: Answers of an interrupted call like this one. The others are then computed in the same batches.
        save: Called with new answers as soon as they are complete, and with the number of answers expected of these
            items in all, including stored ones. It is an estimate until the first answer to an item is complete.

    Returns:
        The new answers, by sample id and name of the variant.
    """
    probes, known, resumed = list(probes), known or {}, resumed or {}
    fresh: dict[str, Answers] = {item.sample.id: {} for item in items}
    # Number of variants of the second step, by sample id.
    later: dict[str, int] = {}

    def given(sample_id: str) -> Mapping[str, VariantAnswer]:
        return {**known.get(sample_id, {}), **resumed.get(sample_id, {}), **fresh[sample_id]}

    def first(item: ProbeInput) -> list[Variant]:
        return [item.variant(REAL), *(variant for probe in probes for variant in probe.first(item))]

    def then(item: ProbeInput) -> list[Variant]:
        real = given(item.sample.id)[REAL]
        return [variant for probe in probes for variant in probe.then(item, real)]

    def answerable(item: ProbeInput, variants: Sequence[Variant]) -> list[Variant]:
        """The variants that are answered or can be. Two with one name are a bug in a probe."""
        assert len({variant.name for variant in variants}) == len(variants)
        stored = given(item.sample.id)
        return [variant for variant in variants if variant.name in stored or not backend.refusal(variant)]

    def step(variants_of: Callable[[ProbeInput], list[Variant]]) -> _Step:
        pairs = [(item.sample.id, variant) for item in items for variant in answerable(item, variants_of(item))]
        new = [(name, variant) for name, variant in pairs if variant.name not in known.get(name, ())]
        done = {index for index, (name, variant) in enumerate(new) if variant.name in resumed.get(name, ())}
        return _Step(pairs=new, done=done, size=len(pairs))

    def extrapolated() -> int:
        """Size of the second step, extrapolated from the items answered so far.

        The backend is not asked what it can answer: an error of a server here would lose answers under way.
        """
        for item in items:
            if item.sample.id not in later and REAL in given(item.sample.id):
                later[item.sample.id] = len(then(item))
        return round(len(items) * sum(later.values()) / len(later)) if later else 0

    def run(current: _Step, other_size: Callable[[], int]) -> None:
        for answered in backend.iterate([variant for _, variant in current.pairs], current.done):
            new: dict[str, Answers] = {}
            for index, answer in answered:
                if index not in current.done:
                    sample_id, variant = current.pairs[index]
                    new.setdefault(sample_id, {})[variant.name] = answer
                    fresh[sample_id][variant.name] = answer
            if save is not None and new:
                save(new, current.size + other_size())

    begin = step(first)
    if not (begin.complete and step(then).complete):
        run(begin, extrapolated)
        run(step(then), lambda: begin.size)
    return fresh


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """The variants of a step that are not known yet, with the ids of their samples.

    Attributes:
        pairs: Sample ids and variants.
        done: Indices of those that an interrupted call answered.
        size: Number of variants of the step, with the known ones.
    """

    pairs: list[tuple[str, Variant]]
    done: set[int]
    size: int

    @property
    def complete(self) -> bool:
        """Whether nothing has to be computed."""
        return len(self.done) == len(self.pairs)


def probe_input(sample: Sample, images: Sequence[Image], others: Sequence[Image], template: str) -> ProbeInput:
    """The input of the probes for an item with its images and those of its partner."""
    return ProbeInput(
        sample=sample, images=tuple(images), others=tuple(others), seed=item_seed(sample), template=template
    )


def probe_inputs(samples: Sequence[Sample], images: Sequence[Sequence[Image]], template: str) -> list[ProbeInput]:
    """Probe inputs of a whole set with their partners' images, for sets that fit in memory."""
    return [
        probe_input(sample, own, () if partner is None else images[partner], template)
        for sample, own, partner in zip(samples, images, partners(samples), strict=True)
    ]


def even_parts(n: int, at_once: int) -> list[range]:
    """Indices 0 to n - 1 in the fewest parts of at most `at_once`, of nearly equal size."""
    count = -(-n // at_once)
    return [range(n * number // count, n * (number + 1) // count) for number in range(count)]


def audited(samples: Sequence[Sample], answers: Mapping[str, Mapping[str, VariantAnswer]]) -> list[AuditedItem]:
    """The items with their answers, as `Probe.measure` takes them."""
    return [AuditedItem(sample=sample, answers=answers[sample.id]) for sample in samples]
