"""Pointing probe: do the boxes of an answer mark the image regions that the answer depends on?

Held: the center of the box is inside the true box of the finding that the reasoning names (the pointing game, arXiv
1608.00507). Evidence: the answer changes if the region of the box is hidden, but not if a region of equal size
elsewhere is hidden. This needs no true boxes (occlusion, arXiv 1311.2901). Moved: the box follows the finding if
the image is mirrored.
"""

from collections.abc import Callable, Mapping, Sequence, Set
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from medvlm_r1.audit.claims import affirmed_labels
from medvlm_r1.audit.measures import FEWEST, NO_VERDICT, UNMEASURED, ids, no_verdict, share, share_of, unparsed
from medvlm_r1.audit.probe import Judged, Level, Measure, Probe, ProbeInput, ProbeResult
from medvlm_r1.audit.variant import FRAME, AuditedItem, Variant, VariantAnswer
from medvlm_r1.evaluation.calibration import intervals
from medvlm_r1.evaluation.statistics import paired_difference
from medvlm_r1.models.shown import box_frame, true_boxes
from medvlm_r1.prompts.assistant_response import split_response
from medvlm_r1.prompts.boxes import Edges, Size
from medvlm_r1.rewards.box_iou import iou, match_boxes
from medvlm_r1.rewards.box_point import center_inside

HIDDEN, ELSEWHERE, MIRRORED = "hidden", "elsewhere", "mirrored"
LETTER_HIDDEN, LETTER_ELSEWHERE = "letter-hidden", "letter-elsewhere"

ASKS = ("finding", "side", "size")
"""Attributes that a finding decides. Questions about other attributes, such as the plane, are left out."""
HELD = MOVED = 0.5
"""Shares of boxes from which the probe passes: a box is then more often right than wrong."""
EVIDENCE = 0.25
"""Share of answers that rest on the box, from which the probe passes. With two options, a guess repeats the answer half
of the time. If every answer rests on its box, half of them change. The threshold is half of that."""

_GRID = 9
"""Number of positions per axis that are tried for a region of equal size."""
# From best to worst.
_GRAVITY: tuple[Level, ...] = ("pass", "warn", "not run", "fail")


class PointingProbe(Probe):
    """Hidden regions, a mirrored image and the true boxes, with a joint verdict.

    Each item with a box has the variant "hidden". About half of them have "elsewhere" too, the others "mirrored". The
    cost is therefore two answers per item with a box.
    """

    name = "pointing"

    def then(self, probe_input: ProbeInput, real: VariantAnswer) -> Sequence[Variant]:
        """Make the variants with a changed image; none without a box, or if no finding decides the question."""
        images, sample = probe_input.images, probe_input.sample
        frame = box_frame([image.size for image in images], probe_input.template, probe_input.processor)
        boxes = [] if frame is None else frame.boxes(real.text)
        if not boxes or real.option is None or sample.truth.get("asks", ASKS[0]) not in ASKS:
            return []
        image, truth = images[0], true_boxes(sample, images[0].size)
        hidden = hide(image, boxes)
        made = [probe_input.variant(HIDDEN, images=(hidden,), note={"boxes": boxes, "truth": truth})]
        target = mirrored(boxes)
        # A box on the midline stays where it is.
        if probe_input.seed % 2 and not np.diagonal(center_inside(boxes, target)).any():
            return [*made, probe_input.variant(MIRRORED, images=(ImageOps.mirror(image),), note={"boxes": target})]
        regions = equal_regions(image, boxes, [edges for _, edges in truth or ()])
        if not regions:
            return made
        other = hide(image, regions)
        made.append(probe_input.variant(ELSEWHERE, images=(other,), note={"boxes": regions}))
        if sample.options and (response := split_response(real.text)):
            forced: dict[str, Any] = {"prefix": response.with_answer_opened(), "letter_only": True}
            made.append(probe_input.variant(LETTER_HIDDEN, images=(hidden,), note={"where": "box"}, **forced))
            made.append(probe_input.variant(LETTER_ELSEWHERE, images=(other,), note={"where": "region"}, **forced))
        return made

    def measure(self, items: Sequence[AuditedItem]) -> ProbeResult:
        """Compute the measures of all parts and their joint verdict."""
        boxed = [item for item in items if HIDDEN in item.answers]
        if not boxed:
            asked = any(FRAME in answer.note for item in items for answer in item.answers.values())
            why = "No answer has a box to check." if asked else "The prompt template does not ask for boxes."
            return self.result(("not run", why))
        hidden, other = ([item for item in boxed if item.parsed(name)] for name in (HIDDEN, ELSEWHERE))
        compared = [item for item in hidden if item.parsed(ELSEWHERE)]
        turned = [item for item in boxed if MIRRORED in item.answers]
        labels = {label for item in boxed for label, _ in item.answers[HIDDEN].note["truth"] or ()}
        held = [(item, value) for item in boxed if (value := _held(item, labels)) is not None]
        empty, unparsed_ids = unparsed(boxed, (HIDDEN, ELSEWHERE))
        centered, another = "boxes centered in a true box of what the reasoning names", "another answer with {} hidden"
        measures = {
            "pointed": share_of(items, lambda item: HIDDEN in item.answers, "answers with a box to check"),
            "held": share([(value, item.cluster) for item, value in held], centered),
            "evidence": _evidence(compared),
            "changed_hidden": share_of(hidden, _changed(HIDDEN), another.format("the box")),
            "changed_elsewhere": share_of(other, _changed(ELSEWHERE), another.format("a region elsewhere")),
            "probability_drop": _probability_drop(compared),
            "moved": share_of(turned, _moved, "boxes that follow the mirrored image, of those not on the midline"),
            "unparsed": empty,
        }
        parts = _parts(measures, known=any(item.answers[HIDDEN].note["truth"] is not None for item in boxed))
        return self.result(
            _judge(parts),
            measures={name: measure for name, measure in measures.items() if measure.n},
            items={
                "box not on what the reasoning names": ids(item for item, value in held if value < 1),
                "same answer with the box hidden": ids(item for item in hidden if not _changed(HIDDEN)(item)),
                "another answer with a region elsewhere hidden": ids(filter(_changed(ELSEWHERE), other)),
                "box does not follow the mirrored image": ids(item for item in turned if _moved(item) < 1),
                "an answer was not parsed": unparsed_ids,
            },
            detail={"parts": {name: level for name, (level, _) in parts.items()}},
            thresholds={
                "evidence": f"pass from {EVIDENCE} at the lower end, fail below it at the upper end",
                "held, moved": f"the same from {HELD}; left out below {FEWEST} answers",
                **NO_VERDICT,
            },
        )


def hide(image: Image.Image, boxes: Sequence[Edges]) -> Image.Image:
    """Copy an RGB image and fill each box with the mean color of the pixels around it."""
    pixels = np.array(image)
    for box in boxes:
        rows, columns = _slices(box, image.size)
        around = np.zeros(pixels.shape[:2], dtype=bool)
        around[max(rows.start - 1, 0) : rows.stop + 1, max(columns.start - 1, 0) : columns.stop + 1] = True
        around[rows, columns] = False
        # A box around the whole image has nothing around it.
        color = pixels[around] if around.any() else pixels[rows, columns].reshape(-1, 3)
        pixels[rows, columns] = color.mean(axis=0).round()
    return Image.fromarray(pixels)


def equal_regions(image: Image.Image, boxes: Sequence[Edges], others: Sequence[Edges]) -> list[Edges]:
    """For each box, a region of its size elsewhere with the most similar contrast (standard deviation of gray values).

    Regions overlap neither a box nor one of `others` nor one another. The list is empty if there is no room for all.
    """
    gray = np.asarray(image.convert("L"), dtype=np.float64)
    taken, regions = [*boxes, *others], list[Edges]()
    for box in boxes:
        width, height = box[2] - box[0], box[3] - box[1]
        places = [(x, y) for x in np.linspace(0, 1 - width, _GRID) for y in np.linspace(0, 1 - height, _GRID)]
        all_ = [(float(x), float(y), float(x + width), float(y + height)) for x, y in places]
        free = [region for region, overlaps in zip(all_, iou(all_, taken) > 0, strict=True) if not overlaps.any()]
        if not free:
            return []
        contrasts = [gray[_slices(region, image.size)].std() for region in free]
        nearest = int(np.abs(np.array(contrasts) - gray[_slices(box, image.size)].std()).argmin())
        regions.append(free[nearest])
        taken.append(free[nearest])
    return regions


def mirrored(boxes: Sequence[Edges]) -> list[Edges]:
    """The boxes in the image mirrored left to right."""
    return [(1 - x2, y1, 1 - x1, y2) for x1, y1, x2, y2 in boxes]


def _slices(box: Edges, size: Size) -> tuple[slice, slice]:
    """Rows and columns of the pixels of a box, at least one of each."""
    left, top, right, bottom = np.multiply(box, [*size, *size]).round().astype(int).tolist()
    left, top = min(left, size[0] - 1), min(top, size[1] - 1)
    return slice(top, max(bottom, top + 1)), slice(left, max(right, left + 1))


def _hits(boxes: Sequence[Edges], targets: Sequence[Edges]) -> int:
    """Number of targets with the center of a box inside, matched one to one."""
    return int((match_boxes(center_inside, boxes, targets) > 0).sum())


def _held(item: AuditedItem, labels: Set[str]) -> float | None:
    """Share of boxes on a true box of what the reasoning names; None if this is unknown.

    Args:
        item: An item with a box.
        labels: All labels of true boxes.
    """
    truth = item.answers[HIDDEN].note["truth"]
    named = set() if truth is None else affirmed_labels(item.reasoning(), item.sample.options, labels)
    boxes, targets = item.answers[HIDDEN].note["boxes"], [edges for label, edges in truth or () if label in named]
    return _hits(boxes, targets) / len(boxes) if named else None


def _moved(item: AuditedItem) -> float:
    """Share of the original boxes, mirrored, that contain the center of a box in the mirrored image."""
    answer = item.answers[MIRRORED]
    targets = answer.note["boxes"]
    return _hits(answer.boxes, targets) / len(targets)


def _changed(name: str) -> Callable[[AuditedItem], bool]:
    return lambda item: not item.same(name)


def _evidence(items: Sequence[AuditedItem]) -> Measure:
    """Share of answers that change with the box hidden, minus the share with an equal region elsewhere hidden."""
    if not items:
        return UNMEASURED
    other, hidden = (list(map(_changed(name), items)) for name in (ELSEWHERE, HIDDEN))
    value, low, high = paired_difference(other, hidden, [item.cluster for item in items])
    about = "answers that change with the box hidden, minus those with an equal region elsewhere hidden"
    return Measure(value=value, n=len(items), ci95=(low, high), unit="difference", about=about)


def _probability(item: AuditedItem, name: str) -> float:
    """Probability of the original answer in a variant; 0 if it was not measured."""
    answer = item.answers.get(name)
    return (
        answer.probabilities[item.sample.options.index(item.real.option or "")]
        if answer and answer.probabilities
        else 0
    )


def _probability_drop(items: Sequence[AuditedItem]) -> Measure:
    """How much more probability the answer loses with the box hidden than with an equal region elsewhere hidden."""
    both = [item for item in items if all(_probability(item, name) for name in (LETTER_ELSEWHERE, LETTER_HIDDEN))]
    if not both:
        return UNMEASURED
    drops = np.array([_probability(item, LETTER_ELSEWHERE) - _probability(item, LETTER_HIDDEN) for item in both])
    [ends] = intervals(lambda rows: [float(drops[rows].mean())], [item.cluster for item in both])
    about = "probability of the answer without reasoning: with a region elsewhere hidden, minus with the box hidden"
    return Measure(value=float(drops.mean()), n=len(drops), ci95=ends, unit="difference", about=about)


def _parts(measures: Mapping[str, Measure], *, known: bool) -> dict[str, Judged]:
    """Verdict and sentence of each part. `known` is whether there are true boxes."""

    def judged(measure: Measure, threshold: float, sentence: str) -> Judged:
        low, high = measure.ends
        return "fail" if high < threshold else "pass" if low >= threshold else "warn", sentence

    evidence = measures["evidence"]
    changed, other = (measures[f"changed_{name}"].percent for name in (HIDDEN, ELSEWHERE))
    low, high = (f"{100 * end:.0f}" for end in evidence.ci95 or (0, 0))
    room = "answers with a box and room for an equal region elsewhere"
    sentence = (
        f"{changed} of the answers change with the box hidden, {other} with an equal region elsewhere. The difference "
        f"is {100 * evidence.value:.0f} points ({low} to {high})."
    )
    unclear = no_verdict(measures["unparsed"], "no verdict on the boxes", evidence.n, room)
    parts = {"evidence": unclear or judged(evidence, EVIDENCE, sentence)}
    for name, threshold, text in (
        ("held", HELD, "of the boxes are on what the reasoning names"),
        ("moved", MOVED, "of the boxes off the midline follow the mirrored image"),
    ):
        measure = measures[name]
        parts[name] = "not run", f"Only {measure.n} answers measure which {text}."
        if measure.n >= FEWEST:
            parts[name] = judged(measure, threshold, f"{measure.span} {text}.")
        elif name == "held" and not known:
            parts[name] = "not run", "The true boxes are unknown."
    return parts


def _judge(parts: Mapping[str, Judged]) -> Judged:
    """Joint verdict and sentence. The true boxes and the mirrored image count only if they were measured."""
    counted = [level for name, (level, _) in parts.items() if name == "evidence" or level != "not run"]
    worst = max(counted, key=_GRAVITY.index)
    beginning = {"fail": "Its boxes do not show", "pass": "Its boxes show", "warn": "Its boxes may not show"}.get(worst)
    sentences = " ".join(sentence for _, sentence in parts.values())
    return worst, f"{beginning} its evidence: {sentences}" if beginning else sentences
