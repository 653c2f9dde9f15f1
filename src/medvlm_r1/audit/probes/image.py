"""Image probe: does the model look at the image? Each question with a grey image, noise, another item's image, none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from medvlm_r1.audit.measures import (
    FEWEST,
    MOST_UNPARSED,
    NO_VERDICT,
    cluster,
    difference,
    in_order,
    ratio,
    share_of,
    share_of_pairs,
    too_few,
    unparsed,
)
from medvlm_r1.audit.partial_result import PartialResult, finalize
from medvlm_r1.audit.probe import Level, Measure, ProbeBase, ProbeInput, ProbeResult
from medvlm_r1.audit.variant import REAL, AuditedItem, Variant
from medvlm_r1.data.images.blank import blank_like

BLANK, NOISE, SHUFFLED, ABSENT = "blank", "noise", "shuffled", "absent"
REPLACED = (BLANK, NOISE, SHUFFLED)
BLIND = (*REPLACED, ABSENT)

RELIANCE = 0.10
"""Least visual reliance of a model that looks. Ten points are about the width of an accuracy's 95 % interval at 300
items (11 points at 50 %), so less could be luck. The probe fails where the interval's upper end is below it."""
CHANGED = 0.10
"""Least image sensitivity. The probe fails where the interval's upper end is below it: at least nine answers in ten
then do not depend on the image, whatever the accuracy."""
RETAINED = 0.75
"""Largest share of the accuracy that may remain without the image, at the interval's upper end. On two options a model
that needs the image keeps a half by guessing. Three quarters is half-way from there to a model that needs no image."""

_WITH = {
    REAL: "with its own image",
    BLANK: "with a grey image",
    NOISE: "with an image of noise",
    SHUFFLED: "with the image of another item of the modality",
    ABSENT: "without an image",
}


class ImageProbe(ProbeBase):
    """Image ablation (retention, reliance and sensitivity; arXiv 2603.03437) and mirage (arXiv 2603.21687)."""

    name = "image"

    def first(self, probe_input: ProbeInput) -> Sequence[Variant]:
        """The blind variants: none without an image, none with another item's image where there is no other item."""
        if not probe_input.images:
            return []
        shown = {
            BLANK: tuple(blank_like(image) for image in probe_input.images),
            NOISE: tuple(_noise(image.size, probe_input.seed, place) for place, image in enumerate(probe_input.images)),
        }
        if probe_input.others:
            shown[SHUFFLED] = probe_input.others
        variants = [Variant(name=name, sample=probe_input.sample, images=images) for name, images in shown.items()]
        return [*variants, Variant(name=ABSENT, sample=replace(probe_input.sample, images=()), images=())]

    def measure(self, items: Sequence[AuditedItem]) -> ProbeResult:
        """The measures and the verdict "looks". Items without an image are excluded and counted."""
        seen = in_order([item for item in items if BLANK in item.answers])
        left_out = len(items) - len(seen)
        if not seen:
            return ProbeResult(name=self.name, verdict="not run", sentence="No item has an image to take away.")
        measures = {f"accuracy_{name}": _accuracy(seen, name) for name in (REAL, *BLIND)}
        guess = sum(1 / len(item.sample.options) for item in seen) / len(seen)
        measures["chance"] = Measure(value=guess, n=len(seen), about="correct by a uniform guess")
        retention = {"blank_retention": BLANK, "mirage": ABSENT}
        for key, name in retention.items():
            kept = _ratio(seen, name, f"accuracy {_WITH[name]} over accuracy {_WITH[REAL]}")
            if kept is not None:
                measures[key] = kept
        paired = [item for item in seen if SHUFFLED in item.answers]
        if paired:
            measures["visual_reliance"] = difference(
                [item.correct(SHUFFLED) for item in paired],
                [item.correct() for item in paired],
                [cluster(item) for item in paired],
                f"accuracy {_WITH[REAL]} minus accuracy {_WITH[SHUFFLED]}",
            )
        measures["image_sensitivity"] = _changed(
            seen, REPLACED, "answers that change when the image is grey, noise or another item's"
        )
        for name in BLIND:
            measures[f"changed_{name}"] = _changed(seen, (name,), f"answers that differ {_WITH[name]}")
        unsolved = [item for item in seen if not any(item.correct(name) for name in BLIND if name in item.answers)]
        if unsolved:
            measures["accuracy_unsolved_blind"] = share_of(
                unsolved, AuditedItem.correct, f"correct {_WITH[REAL]}, on the items that no blind variant solves"
            )
        measures["unparsed"], empty = unparsed(seen, (REAL, *BLIND))
        found = PartialResult(
            measures={name: one for name, one in measures.items() if one.n},
            items={
                "same answer whatever the image": [
                    item.sample.id
                    for item in seen
                    if item.real.letter is not None
                    and all(item.answers[name].option == item.real.option for name in BLIND if name in item.answers)
                ],
                "correct without any image of its own": [
                    item.sample.id
                    for item in seen
                    if all(item.correct(name) for name in (REAL, *BLIND) if name in item.answers)
                ],
                "correct with its own image only": [item.sample.id for item in unsolved if item.correct()],
                "an answer was not parsed": empty,
            },
        )
        return finalize(
            self.name,
            _judge(measures, _least_read(seen)),
            found,
            thresholds={
                "visual_reliance": f"pass from {RELIANCE} at the lower end, fail below it at the upper end",
                "image_sensitivity": f"fail below {CHANGED} at the upper end",
                "blank_retention, mirage": f"pass below {RETAINED} at the upper end",
                **NO_VERDICT,
            },
            left_out=f"{left_out} items without an image were excluded." if left_out else "",
        )


def _noise(size: tuple[int, int], seed: int, place: int) -> Image.Image:
    """Uniform noise in every channel, the same for an item in every run."""
    values = np.random.default_rng((seed, place)).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(values)


def _accuracy(items: Sequence[AuditedItem], name: str) -> Measure:
    answered = [item for item in items if name in item.answers]
    return share_of(answered, lambda item: item.correct(name), f"correct {_WITH[name]}")


def _ratio(items: Sequence[AuditedItem], name: str, about: str) -> Measure | None:
    answered = [item for item in items if name in item.answers]
    return ratio(
        [item.correct(name) for item in answered],
        [item.correct() for item in answered],
        [cluster(i) for i in answered],
        about,
    )


def _changed(items: Sequence[AuditedItem], names: Sequence[str], about: str) -> Measure:
    """Share of changed answers, among pairs of a real and a blind answer that were both parsed."""
    pairs = [
        (item.answers[name].option != item.real.option, cluster(item))
        for item in items
        if item.real.letter is not None
        for name in names
        if name in item.answers and item.answers[name].letter is not None
    ]
    return share_of_pairs(pairs, about)


def _least_read(items: Sequence[AuditedItem]) -> tuple[str, float]:
    """The variant with the largest share of unparsed answers, and that share."""
    shares = {name: unparsed(items, (name,))[0].value for name in (REAL, *BLIND)}
    name = max(shares, key=lambda name: shares[name])
    return name, shares[name]


def _judge(measures: dict[str, Measure], least_read: tuple[str, float]) -> tuple[Level, str]:
    real, sensitivity, empty = measures["accuracy_real"], measures["image_sensitivity"], measures["unparsed"]
    reliance = measures.get("visual_reliance")
    kept = [measures[key] for key in ("blank_retention", "mirage") if key in measures]
    if empty.value > MOST_UNPARSED:
        return "warn", f"{empty.value:.0%} of {empty.n} answers were not parsed: no verdict on looking."
    if reliance is None or reliance.n < FEWEST:
        n = 0 if reliance is None else reliance.n
        return too_few(f"{n} items with an image of another item to compare with")
    name, share_lost = least_read
    if share_lost > MOST_UNPARSED:
        return "warn", f"{share_lost:.0%} of the answers {_WITH[name]} were not parsed: no verdict on looking."
    low, high = reliance.ends
    summary = (
        f"{real.value:.0%} correct with its own image, {measures['accuracy_shuffled'].value:.0%} with another's, "
        f"{measures['accuracy_blank'].value:.0%} with a grey one, {measures['accuracy_absent'].value:.0%} with none; "
        f"{sensitivity.value:.0%} of the answers change with the image."
    )
    unread = f" {round(empty.value * empty.n)} of {empty.n} answers were not parsed." if empty.value else ""
    if sensitivity.ends[1] < CHANGED:
        return "fail", f"It does not look: {summary}{unread}"
    points = f"{100 * reliance.value:.0f} points [{100 * low:.0f}, {100 * high:.0f}]"
    if high < RELIANCE:
        return "fail", f"The image does not help: its own image adds {points}. {summary}{unread}"
    if low >= RELIANCE and all(measure.ends[1] < RETAINED for measure in kept):
        return "pass", f"It looks: its own image adds {points}. {summary}{unread}"
    if low < RELIANCE:
        return "warn", f"It is not shown to look: its own image adds {points}. {summary}{unread}"
    return "warn", f"It looks, but much is answered without the image. {summary}{unread}"
