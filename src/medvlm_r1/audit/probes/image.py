"""Image probe: does the model look at the image?

Each question is repeated with a gray image, with noise, with another item's image, and without an image.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from PIL import Image

from medvlm_r1.audit.measures import (
    MOST_UNPARSED,
    NO_VERDICT,
    UNMEASURED,
    accuracy,
    difference,
    ids,
    no_verdict,
    ratio,
    share,
    unparsed,
    unparsed_note,
)
from medvlm_r1.audit.probe import Judged, Measure, Probe, ProbeInput, ProbeResult
from medvlm_r1.audit.variant import REAL, AuditedItem, Variant
from medvlm_r1.data.images.picture import blank_like

BLANK, NOISE, SHUFFLED, ABSENT = "blank", "noise", "shuffled", "absent"
REPLACED = (BLANK, NOISE, SHUFFLED)
BLIND = (*REPLACED, ABSENT)

RELIANCE = 0.10
"""Smallest visual reliance that passes: the accuracy with the item's own image minus the accuracy with another item's.
Ten points are about the width of the 95 % interval of an accuracy at 300 items (11 points at 50 %), so a smaller
difference could be chance. The probe fails if the upper end of the interval is below this."""
CHANGED = 0.10
"""Smallest image sensitivity that does not fail: the share of answers that change when the image is replaced. The probe
fails if the upper end of the interval is below this. At least nine answers in ten then do not depend on the image,
whatever the accuracy."""
RETAINED = 0.75
"""Largest share of the accuracy that may remain without the image, compared with the upper end of its interval. With
two options, a model that needs the image retains one half by guessing. Three quarters is halfway between that and a
model that needs no image."""

_WITH = {
    REAL: "with its own image",
    BLANK: "with a gray image",
    NOISE: "with an image of noise",
    SHUFFLED: "with the image of another item of the modality",
    ABSENT: "without an image",
}
_RETENTION = {"blank_retention": BLANK, "mirage": ABSENT}


class ImageProbe(Probe):
    """Image ablation: how accuracy and answers change if the image is replaced or left out.

    Retention, reliance and sensitivity follow arXiv 2603.03437, and mirage follows arXiv 2603.21687.

    Mirage is the accuracy without an image divided by the accuracy with the item's own image.
    """

    name = "image"

    def first(self, probe_input: ProbeInput) -> Sequence[Variant]:
        """Make the variants with a replaced image and the variant without an image.

        An item without an image has no variants. Without suitable images of another item, the "shuffled" variant is
        omitted.
        """
        images, seed = probe_input.images, probe_input.seed
        if not images:
            return []
        # Uniform noise in every channel, the same for an item in every run.
        noise = (
            np.random.default_rng((seed, index)).integers(0, 256, (image.height, image.width, 3), dtype=np.uint8)
            for index, image in enumerate(images)
        )
        replaced = {
            BLANK: tuple(blank_like(image) for image in images),
            NOISE: tuple(Image.fromarray(values) for values in noise),
        }
        if probe_input.others:
            replaced[SHUFFLED] = probe_input.others
        variants = [probe_input.variant(name, images=others) for name, others in replaced.items()]
        absent = replace(probe_input.sample, images=(), boxes=())
        return [*variants, probe_input.variant(ABSENT, sample=absent, images=())]

    def measure(self, items: Sequence[AuditedItem]) -> ProbeResult:
        """Compute the measures and the verdict "looks". Items without an image are excluded and counted."""
        usable = [item for item in items if BLANK in item.answers]
        if not usable:
            return self.result(("not run", "No item has an image to take away."))
        measures = {f"accuracy_{name}": accuracy(usable, f"correct {_WITH[name]}", name) for name in (REAL, *BLIND)}
        if all(item.sample.options for item in usable):
            guess = sum(1 / len(item.sample.options) for item in usable) / len(usable)
            measures["chance"] = Measure(value=guess, n=len(usable), about="correct by a uniform guess")
        for key, name in _RETENTION.items():
            retention = ratio(usable, name, REAL, f"accuracy {_WITH[name]} over accuracy {_WITH[REAL]}")
            if retention is not None:
                measures[key] = retention
        if any(SHUFFLED in item.answers for item in usable):
            about = f"accuracy {_WITH[REAL]} minus accuracy {_WITH[SHUFFLED]}"
            measures["visual_reliance"] = difference(usable, REAL, SHUFFLED, about)
        measures["image_sensitivity"] = _changed(
            usable, REPLACED, "answers that change when the image is gray, noise or another item's"
        )
        for name in BLIND:
            measures[f"changed_{name}"] = _changed(usable, (name,), f"answers that differ {_WITH[name]}")
        unsolved = [item for item in usable if not any(item.correct(name) for name in BLIND if name in item.answers)]
        measures["accuracy_unsolved_blind"] = accuracy(
            unsolved, f"correct {_WITH[REAL]}, on the items that no blind variant solves"
        )
        measures["unparsed"], empty = unparsed(usable, (REAL, *BLIND))
        unparsed_of = {name: unparsed(usable, (name,))[0].value for name in (REAL, *BLIND)}
        excluded = len(items) - len(usable)
        return self.result(
            _judge(measures, unparsed_of),
            excluded=f"{excluded} items without an image were excluded." if excluded else "",
            measures={name: measure for name, measure in measures.items() if measure.n},
            items={
                "same answer whatever the image": ids(
                    item
                    for item in usable
                    if item.real.option is not None and all(item.same(name) for name in BLIND if name in item.answers)
                ),
                "correct without any image of its own": ids(
                    item
                    for item in usable
                    if all(item.correct(name) for name in (REAL, *BLIND) if name in item.answers)
                ),
                "correct with its own image only": ids(item for item in unsolved if item.correct()),
                "an answer was not parsed": empty,
            },
            thresholds={
                "visual_reliance": f"pass from {RELIANCE} at the lower end, fail below it at the upper end",
                "image_sensitivity": f"fail below {CHANGED} at the upper end",
                "blank_retention, mirage": f"pass below {RETAINED} at the upper end",
                **NO_VERDICT,
            },
        )


def _changed(items: Sequence[AuditedItem], names: Sequence[str], about: str) -> Measure:
    """Share of answers to the variants `names` that differ from the original answer, if both were parsed."""
    pairs = [
        (not item.same(name), item.cluster)
        for item in items
        if item.real.option is not None
        for name in names
        if item.parsed(name)
    ]
    return share(pairs, about)


def _judge(measures: Mapping[str, Measure], unparsed_of: Mapping[str, float]) -> Judged:
    """Verdict and sentence. `unparsed_of` has the share of unparsed answers for each variant."""
    sensitivity, empty = measures["image_sensitivity"], measures["unparsed"]
    reliance = measures.get("visual_reliance", UNMEASURED)
    compared = "items with an image of another item to compare with"
    if unclear := no_verdict(empty, "no verdict on image use", reliance.n, compared):
        return unclear
    worst = max(unparsed_of, key=lambda name: unparsed_of[name])
    if unparsed_of[worst] > MOST_UNPARSED:
        share_lost = f"{100 * unparsed_of[worst]:.0f} % of the answers {_WITH[worst]}"
        return "warn", f"{share_lost} were not parsed: no verdict on image use."
    correct = {name: measures[f"accuracy_{name}"].percent for name in (REAL, SHUFFLED, BLANK, ABSENT)}
    summary = (
        f"{correct[REAL]} correct with its own image, {correct[SHUFFLED]} with another's, {correct[BLANK]} with a gray "
        f"one, {correct[ABSENT]} with none; {sensitivity.percent} of the answers change with the image."
        f"{unparsed_note(empty)}"
    )
    if sensitivity.ends[1] < CHANGED:
        return "fail", f"It does not look: {summary}"
    low, high = reliance.ends
    points = f"{100 * reliance.value:.0f} points ({100 * low:.0f} to {100 * high:.0f})"
    if high < RELIANCE:
        return "fail", f"The image does not help: its own image adds {points}. {summary}"
    if low < RELIANCE:
        return "warn", f"It is not shown to look: its own image adds {points}. {summary}"
    if all(measures[key].ends[1] < RETAINED for key in _RETENTION if key in measures):
        return "pass", f"It looks: its own image adds {points}. {summary}"
    return "warn", f"It looks, but much is answered without the image. {summary}"
