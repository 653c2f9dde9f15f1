"""Collect the answers to the variants of items: which variants, in which order. Nothing here touches the disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from PIL.Image import Image

from medvlm_r1.audit.backends import AuditBackend, stream_answers
from medvlm_r1.audit.probe import Probe, ProbeInput
from medvlm_r1.audit.variant import REAL, AuditedItem, Variant, VariantAnswer, item_seed
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
    found: list[int | None] = [None] * len(samples)
    for members in groups.values():
        order = sorted(members, key=lambda index: item_seed(samples[index]))
        shift = _shift([samples[index].cluster for index in order])
        for rank, index in enumerate(order):
            if len(order) > 1:
                found[index] = order[(rank + shift) % len(order)]
    return found


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
    counts: dict[str, int] = {}
    later: dict[str, int] = {}

    def first(item: ProbeInput) -> list[Variant]:
        real = Variant(name=REAL, sample=item.sample, images=item.images)
        return _distinct([real, *(variant for probe in probes for variant in probe.first(item))], backend)

    def then(item: ProbeInput) -> list[Variant]:
        real = given(item.sample.id)[REAL]
        return _distinct((variant for probe in probes for variant in probe.then(item, real)), backend)

    def given(sample_id: str) -> Mapping[str, VariantAnswer]:
        return {**known.get(sample_id, {}), **resumed.get(sample_id, {}), **fresh[sample_id]}

    def pairs_of(wanted: Callable[[ProbeInput], list[Variant]]) -> list[tuple[str, Variant]]:
        found = [(item.sample.id, wanted(item)) for item in items]
        for sample_id, variants in found:
            counts[sample_id] = counts.get(sample_id, 0) + len(variants)
        return [(name, variant) for name, some in found for variant in some if variant.name not in known.get(name, ())]

    def done(pairs: Sequence[tuple[str, Variant]]) -> set[int]:
        return {index for index, (name, variant) in enumerate(pairs) if variant.name in resumed.get(name, ())}

    def ask(pairs: Sequence[tuple[str, Variant]], expected: Callable[[], int]) -> None:
        for answered in stream_answers(backend, [variant for _, variant in pairs], done(pairs)):
            new: dict[str, Answers] = {}
            for index, answer in answered:
                sample_id, variant = pairs[index]
                new.setdefault(sample_id, {})[variant.name] = answer
            for sample_id, answers in new.items():
                fresh[sample_id] |= answers
            if save is not None and new:
                save(new, expected())

    def estimate() -> int:
        """All variants of the first step, and an extrapolation for the second from the items answered so far."""
        for item in items:
            if item.sample.id not in later and REAL in given(item.sample.id):
                later[item.sample.id] = len(then(item))
        return sum(counts.values()) + (round(len(items) * sum(later.values()) / len(later)) if later else 0)

    pairs = pairs_of(first)
    if len(done(pairs)) == len(pairs):
        # The first step is complete. If the second is too, nothing is computed again.
        more = pairs_of(then)
        if len(done(more)) == len(more):
            return fresh
        counts.clear()
        pairs = pairs_of(first)
    ask(pairs, estimate)
    ask(pairs_of(then), lambda: sum(counts.values()))
    return fresh


def probe_inputs(samples: Sequence[Sample], images: Sequence[Sequence[Image]], template: str) -> list[ProbeInput]:
    """Probe inputs of a whole set with their partners' images, for sets that fit in memory."""
    partner = partners(samples)
    return [
        ProbeInput(
            sample=sample,
            images=tuple(shown),
            others=() if partner[index] is None else tuple(images[partner[index] or 0]),
            seed=item_seed(sample),
            template=template,
        )
        for index, (sample, shown) in enumerate(zip(samples, images, strict=True))
    ]


def even_parts(n: int, at_once: int) -> list[range]:
    """Indices 0 to n - 1 in the fewest parts of at most `at_once`, of nearly equal size."""
    count = -(-n // at_once)
    return [range(n * part // count, n * (part + 1) // count) for part in range(count)]


def audited(samples: Sequence[Sample], answers: Mapping[str, Mapping[str, VariantAnswer]]) -> list[AuditedItem]:
    """The items with their answers, as `Probe.measure` takes them."""
    return [AuditedItem(sample=sample, answers=answers[sample.id]) for sample in samples]


def _distinct(variants: Iterable[Variant], backend: AuditBackend) -> list[Variant]:
    """The variants that a backend can answer. Two with one name are a bug in a probe."""
    seen: set[str] = set()
    taken = []
    for variant in variants:
        assert variant.name not in seen, variant.name
        seen.add(variant.name)
        if backend.local or _for_servers(variant):
            taken.append(variant)
    return taken


def _for_servers(variant: Variant) -> bool:
    return not variant.prefix and not variant.letter_only
