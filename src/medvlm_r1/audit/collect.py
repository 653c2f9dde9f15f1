"""Collect answers: choose the variants of the items to answer, and their order. This module accesses no files."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from PIL.Image import Image

from medvlm_r1.audit.probe import Probe, ProbeInput
from medvlm_r1.audit.variant import REAL, AuditBackend, AuditedItem, Variant, VariantAnswer, item_seed
from medvlm_r1.data.sample import Sample

Answers = dict[str, VariantAnswer]


def partners(samples: Sequence[Sample]) -> list[int | None]:
    """Choose a partner for each item: another item whose images replace its own.

    Items with the same modality and number of images form a cycle, ordered by a hash of their ids. No item is its own
    partner, and no two items have the same partner. The cycle avoids partners of the same subject where possible.

    Args:
        samples: The items, with different ids.

    Returns:
        The index of each item's partner in `samples`. It is None if the item has no image, or if no other item has the
        same modality and number of images.
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
    """The smallest step along the cycle, from 1, that pairs the fewest items of the same subject."""
    names = np.unique(np.asarray(subjects), return_inverse=True)[1]
    steps = range(1, min(len(subjects), 64))
    return min(steps, key=lambda step: int((names == np.roll(names, -step)).sum()), default=1)


def collect_responses(
    items: Sequence[ProbeInput],
    probes: Iterable[Probe],
    backend: AuditBackend,
    known: Mapping[str, Mapping[str, VariantAnswer]] | None = None,
    *,
    resumed: Mapping[str, Collection[str]] | None = None,
    save: Callable[[Mapping[str, Answers], int], None] | None = None,
) -> dict[str, Answers]:
    """Collect the answers to every variant of every item that is not in `known`.

    The variants of `Probe.first` are answered first. The variants of `Probe.then` need the answers to the original
    questions, so they are answered second.

    Args:
        items: The probe inputs.
        probes: The probes that define the variants.
        backend: Generates the answers. Variants that it cannot answer are excluded.
        known: Stored answers, by sample id and name of the variant.
        resumed: Names of the answers in `known` that an interrupted call with the same arguments passed to `save`, by
            sample id. The other variants are then computed in the same batches as in that call.
        save: Called with new answers as soon as they are complete, and with the total number of answers expected for
            these items, including stored ones. The total is an estimate until all variants of `Probe.first` are
            answered.

    Returns:
        The new answers, by sample id and name of the variant.
    """
    probes, known, resumed = list(probes), known or {}, resumed or {}
    fresh: dict[str, Answers] = {item.sample.id: {} for item in items}
    answers = {name: dict(known.get(name, {})) for name in fresh}
    # Number of variants from `Probe.then`, by sample id.
    later: dict[str, int] = {}

    def first(item: ProbeInput) -> list[Variant]:
        return [item.variant(REAL), *(variant for probe in probes for variant in probe.first(item))]

    def then(item: ProbeInput) -> list[Variant]:
        return [variant for probe in probes for variant in probe.then(item, answers[item.sample.id][REAL])]

    def step(variants_of: Callable[[ProbeInput], list[Variant]]) -> _Step:
        pairs = [
            (item.sample.id, variant)
            for item in items
            for variant in variants_of(item)
            if variant.name in answers[item.sample.id] or not backend.refusal(variant)
        ]
        done = {(name, variant.name) for name, variant in pairs if variant.name in known.get(name, ())}
        again = {(name, other) for name, others in resumed.items() for other in others}
        new = [(name, variant) for name, variant in pairs if (name, variant.name) not in done - again]
        return _Step(new, {i for i, (name, variant) in enumerate(new) if (name, variant.name) in done}, len(pairs))

    def extrapolated() -> int:
        """Number of variants from `Probe.then`, extrapolated from the items whose original question is answered.

        It includes variants that the backend cannot answer. Checking this could raise a server's error here, and the
        answers that are being generated would be lost.
        """
        later.update(
            (item.sample.id, len(then(item)))
            for item in items
            if item.sample.id not in later and REAL in answers[item.sample.id]
        )
        return round(len(items) * sum(later.values()) / len(later)) if later else 0

    def run(current: _Step, other_size: Callable[[], int]) -> None:
        for answered in backend.iterate([variant for _, variant in current.pairs], current.done):
            new: dict[str, Answers] = {}
            for index, answer in answered:
                if index not in current.done:
                    sample_id, variant = current.pairs[index]
                    for mapping in (new.setdefault(sample_id, {}), fresh[sample_id], answers[sample_id]):
                        mapping[variant.name] = answer
            if save is not None and new:
                save(new, current.size + other_size())

    begin = step(first)
    if not (begin.complete and step(then).complete):
        run(begin, extrapolated)
        run(step(then), lambda: begin.size)
    return fresh


class _Step(NamedTuple):
    """One of the two steps: the variants of `Probe.first` or those of `Probe.then`.

    Attributes:
        pairs: Sample id and variant, for each variant to compute, or to compute again in the same batches.
        done: Indices into `pairs` of the variants that an interrupted call answered.
        size: Number of variants in the step, including those in `known`.
    """

    pairs: list[tuple[str, Variant]]
    done: set[int]
    size: int

    @property
    def complete(self) -> bool:
        """Whether no variant remains to be answered."""
        return len(self.done) == len(self.pairs)


def probe_input(sample: Sample, images: Sequence[Image], others: Sequence[Image], template: str) -> ProbeInput:
    """Build the probe input of an item from its images and the images of its partner."""
    return ProbeInput(
        sample=sample, images=tuple(images), others=tuple(others), seed=item_seed(sample), template=template
    )


def even_parts(n: int, at_once: int) -> list[range]:
    """Split the indices 0 to n - 1 into as few ranges of at most `at_once` as possible, of nearly equal size."""
    count = -(-n // at_once)
    return [range(n * number // count, n * (number + 1) // count) for number in range(count)]


def audited(samples: Sequence[Sample], answers: Mapping[str, Mapping[str, VariantAnswer]]) -> list[AuditedItem]:
    """Combine each sample with its answers, as `Probe.measure` expects them."""
    return [AuditedItem(sample=sample, answers=answers[sample.id]) for sample in samples]
