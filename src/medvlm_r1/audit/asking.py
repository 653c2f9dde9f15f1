"""From items and probes to answers: which variants are asked, and in what order. Nothing here touches a disk."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
from PIL.Image import Image

from medvlm_r1.audit.probe import Asked, Probe
from medvlm_r1.audit.respond import Respondent
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
) -> dict[str, Answers]:
    """Ask every variant of every item that is not known yet.

    Args:
        items: What is asked about.
        probes: Whose variants.
        respondent: Who answers; variants it cannot take are left out.
        known: Answers there already, by sample id and name of the variant.

    Returns:
        The new answers, by sample id and name of the variant.
    """
    probes, known = list(probes), known or {}
    fresh: dict[str, Answers] = {item.sample.id: {} for item in items}

    def ask(wanted: Callable[[Asked], Iterable[Variant]]) -> None:
        pairs = [
            (item.sample.id, variant)
            for item in items
            for variant in _distinct(wanted(item))
            if variant.name not in known.get(item.sample.id, ()) and (respondent.local or _for_servers(variant))
        ]
        answers = respondent.answer([variant for _, variant in pairs])
        for (sample_id, variant), answer in zip(pairs, answers, strict=True):
            fresh[sample_id][variant.name] = answer

    def first(item: Asked) -> Iterable[Variant]:
        yield Variant(name=REAL, sample=item.sample, images=item.images)
        for probe in probes:
            yield from probe.first(item)

    def then(item: Asked) -> Iterable[Variant]:
        sample_id = item.sample.id
        real = fresh[sample_id].get(REAL) or known[sample_id][REAL]
        for probe in probes:
            yield from probe.then(item, real)

    ask(first)
    ask(then)
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


def _distinct(variants: Iterable[Variant]) -> Iterable[Variant]:
    """The variants; two of one name are a mistake in a probe."""
    seen: set[str] = set()
    for variant in variants:
        assert variant.name not in seen, variant.name
        seen.add(variant.name)
        yield variant


def _for_servers(variant: Variant) -> bool:
    return not variant.prefix and not variant.letter_only
