"""From items and probes to answers: which variants are asked, and in what order. Nothing here touches a disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from PIL.Image import Image

from medvlm_r1.audit.backends import Respondent, as_answered
from medvlm_r1.audit.probe import Asked, Probe
from medvlm_r1.audit.variant import REAL, AuditedItem, Variant, VariantAnswer, item_seed
from medvlm_r1.data.sample import Sample

Answers = dict[str, VariantAnswer]


def partners(samples: Sequence[Sample]) -> list[int | None]:
    """For each item another one whose images are shown in its place.

    Args:
        samples: The items, with different ids.

    Returns:
        Places in `samples`: within a modality and a number of images, a cycle through all items in an order drawn from
        their ids, so nobody is their own partner and everyone is somebody's. Items of one subject are nobody's best
        partners: the cycle steps over them where it can. None for an item that has no image or stands alone.
    """
    groups: dict[tuple[str, int], list[int]] = {}
    for place, sample in enumerate(samples):
        if sample.images:
            groups.setdefault((sample.modality, len(sample.images)), []).append(place)
    found: list[int | None] = [None] * len(samples)
    for members in groups.values():
        order = sorted(members, key=lambda place: item_seed(samples[place]))
        shift = _shift([samples[place].cluster for place in order])
        for rank, place in enumerate(order):
            if len(order) > 1:
                found[place] = order[(rank + shift) % len(order)]
    return found


def _shift(subjects: Sequence[str]) -> int:
    """The step from 1 on that pairs the fewest items of one subject; the smallest of equals."""
    names = np.unique(np.asarray(subjects), return_inverse=True)[1]
    steps = range(1, min(len(subjects), 64))
    return min(steps, key=lambda step: int((names == np.roll(names, -step)).sum()), default=1)


def ask_items(
    items: Sequence[Asked],
    probes: Iterable[Probe],
    respondent: Respondent,
    known: Mapping[str, Mapping[str, VariantAnswer]] | None = None,
    *,
    resumed: Mapping[str, Mapping[str, VariantAnswer]] | None = None,
    save: Callable[[Mapping[str, Answers], int], None] | None = None,
) -> dict[str, Answers]:
    """Ask every variant of every item that is not known yet.

    Args:
        items: What is asked about.
        probes: Whose variants.
        respondent: Who answers; variants it cannot take are left out.
        known: Answers there already, by sample id and name of the variant.
        resumed: Those of an interrupted call like this one. The others are then computed in the same batches.
        save: Called with new answers as soon as they are there, and with the number of answers expected of these items
            in all, those that were there among them. Until an item's first answer has come it is an estimate.

    Returns:
        The new answers, by sample id and name of the variant.
    """
    probes, known, resumed = list(probes), known or {}, resumed or {}
    fresh: dict[str, Answers] = {item.sample.id: {} for item in items}
    counts: dict[str, int] = {}
    later: dict[str, int] = {}

    def first(item: Asked) -> list[Variant]:
        real = Variant(name=REAL, sample=item.sample, images=item.images)
        return _distinct([real, *(variant for probe in probes for variant in probe.first(item))], respondent)

    def then(item: Asked) -> list[Variant]:
        real = given(item.sample.id)[REAL]
        return _distinct((variant for probe in probes for variant in probe.then(item, real)), respondent)

    def given(sample_id: str) -> Mapping[str, VariantAnswer]:
        return {**known.get(sample_id, {}), **resumed.get(sample_id, {}), **fresh[sample_id]}

    def pairs_of(wanted: Callable[[Asked], list[Variant]]) -> list[tuple[str, Variant]]:
        found = [(item.sample.id, wanted(item)) for item in items]
        for sample_id, variants in found:
            counts[sample_id] = counts.get(sample_id, 0) + len(variants)
        return [(name, variant) for name, some in found for variant in some if variant.name not in known.get(name, ())]

    def done(pairs: Sequence[tuple[str, Variant]]) -> set[int]:
        return {index for index, (name, variant) in enumerate(pairs) if variant.name in resumed.get(name, ())}

    def ask(pairs: Sequence[tuple[str, Variant]], expected: Callable[[], int]) -> None:
        for answered in as_answered(respondent, [variant for _, variant in pairs], done(pairs)):
            new: dict[str, Answers] = {}
            for index, answer in answered:
                sample_id, variant = pairs[index]
                new.setdefault(sample_id, {})[variant.name] = answer
            for sample_id, answers in new.items():
                fresh[sample_id] |= answers
            if save is not None and new:
                save(new, expected())

    def estimate() -> int:
        """All of the first step; of the second, what follows from the answers that are there."""
        for item in items:
            if item.sample.id not in later and REAL in given(item.sample.id):
                later[item.sample.id] = len(then(item))
        return sum(counts.values()) + (round(len(items) * sum(later.values()) / len(later)) if later else 0)

    pairs = pairs_of(first)
    if len(done(pairs)) == len(pairs):
        # The first step is over; where the second is too, nothing is computed again.
        more = pairs_of(then)
        if len(done(more)) == len(more):
            return fresh
        counts.clear()
        pairs = pairs_of(first)
    ask(pairs, estimate)
    ask(pairs_of(then), lambda: sum(counts.values()))
    return fresh


def asked_items(samples: Sequence[Sample], images: Sequence[Sequence[Image]], template: str) -> list[Asked]:
    """The items of a whole set at once, each with its partner's images; for sets that fit in memory."""
    partner = partners(samples)
    return [
        Asked(
            sample=sample,
            images=tuple(shown),
            others=() if partner[place] is None else tuple(images[partner[place] or 0]),
            seed=item_seed(sample),
            template=template,
        )
        for place, (sample, shown) in enumerate(zip(samples, images, strict=True))
    ]


def even_parts(n: int, at_once: int) -> list[range]:
    """The places 0 to n - 1 in as few parts of at most `at_once` as there can be, none much smaller than another."""
    count = -(-n // at_once)
    return [range(n * part // count, n * (part + 1) // count) for part in range(count)]


def audited(samples: Sequence[Sample], answers: Mapping[str, Mapping[str, VariantAnswer]]) -> list[AuditedItem]:
    """The items with what was answered about them, as `Probe.measure` takes them."""
    return [AuditedItem(sample=sample, answers=answers[sample.id]) for sample in samples]


def _distinct(variants: Iterable[Variant], respondent: Respondent) -> list[Variant]:
    """The variants a respondent can take; two of one name are a mistake in a probe."""
    seen: set[str] = set()
    taken = []
    for variant in variants:
        assert variant.name not in seen, variant.name
        seen.add(variant.name)
        if respondent.local or _for_servers(variant):
            taken.append(variant)
    return taken


def _for_servers(variant: Variant) -> bool:
    return not variant.prefix and not variant.letter_only
