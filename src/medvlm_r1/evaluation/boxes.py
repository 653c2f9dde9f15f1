"""Metrics of predicted boxes: overlap, hits, sensitivity by size, and false boxes, with intervals by subject."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from scipy.special import gammaincinv

from medvlm_r1.data.sample import Sample
from medvlm_r1.evaluation.score import share
from medvlm_r1.evaluation.statistics import CONFIDENCE, clustered_se, clustered_wilson
from medvlm_r1.models.generate import Generation
from medvlm_r1.models.shown import BoxLabel, stated_findings
from medvlm_r1.prompts.boxes import Edges, parse_boxes
from medvlm_r1.rewards.box_iou import iou, match_boxes
from medvlm_r1.rewards.box_point import center_inside

LOCALIZED = 0.5
"""Minimum IoU of a localized finding."""
SIDES = {"small": 0.12, "medium": 0.19}
"""Upper bounds of the side of a finding: the square root of its box's share of the image area. They are the middles of
the gaps between PhantomVQA's size classes."""


def score_boxes(
    samples: Sequence[Sample], generations: Sequence[Generation], labels: Sequence[BoxLabel]
) -> dict[str, Any]:
    """Metrics of the boxes of one evaluation.

    Predicted and true boxes of an image are matched one to one, as for the reward `box_iou` (for `center`, as for
    `box_point`). A true box without a predicted box has an IoU of 0.

    Args:
        samples: n samples.
        generations: n completions, in the same order.
        labels: n box labels. Samples with unknown boxes are counted in `unknown` and otherwise ignored.

    Returns:
        `n` (samples with known boxes) and `unknown`. Over the true boxes: `mean_iou` (`{n, mean, ci95}`, from 0 to 1),
        `localized` (share with an IoU of at least 0.5), `center` (share that contains the center of a predicted box)
        and `by_size.<size>` (the share `localized`; the size is that of `truth`, or otherwise follows from `SIDES`).
        `false_boxes` is the number of predicted boxes per image without a finding, and `extra_boxes` the number of
        boxes beyond one per finding in the other images: `{n, count, per_image, ci95}`. Both include malformed boxes.
        `malformed` is the share of completions with a malformed box. For shares, see `evaluation.score.share`.
    """
    findings: list[tuple[float, bool, str, Hashable]] = []
    surplus: dict[bool, list[tuple[int, Hashable]]] = {False: [], True: []}
    malformed: list[tuple[bool, Hashable]] = []
    for sample, generation, label in zip(samples, generations, labels, strict=True):
        if label.boxes is None:
            continue
        parsed = parse_boxes(generation.text, label.shown_size)
        malformed.append((parsed.malformed > 0, sample.cluster))
        surplus[bool(label.boxes)].append((max(0, parsed.count - len(label.boxes)), sample.cluster))
        overlaps = match_boxes(iou, parsed.boxes, label.boxes).tolist()
        hits = (match_boxes(center_inside, parsed.boxes, label.boxes) > 0).tolist()
        clusters = [sample.cluster] * len(overlaps)
        findings += zip(overlaps, hits, _sizes(sample, label.boxes), clusters, strict=True)
    ious = [row[0] for row in findings]
    localized = [(overlap >= LOCALIZED, cluster, size) for overlap, _, size, cluster in findings]
    sizes = dict.fromkeys(["small", "medium", "large", *sorted(row[2] for row in findings)])
    return {
        "n": len(malformed),
        "unknown": len(labels) - len(malformed),
        "mean_iou": {
            "n": len(findings),
            "mean": sum(ious) / len(findings) if findings else None,
            "ci95": list(clustered_wilson(ious, [row[3] for row in findings])) if findings else None,
        },
        "localized": _share([row[:2] for row in localized]),
        "center": _share([(hit, cluster) for _, hit, _, cluster in findings]),
        "by_size": {
            size: _share([row[:2] for row in localized if row[2] == size])
            for size in sizes
            if any(row[2] == size for row in localized)
        },
        "false_boxes": rate(*_columns(surplus[False])),
        "extra_boxes": rate(*_columns(surplus[True])),
        "malformed": _share(malformed),
    }


def rate(counts: Sequence[int], clusters: Sequence[Hashable]) -> dict[str, Any]:
    """Mean of counts per image, with a 95 % interval: `{n, count, per_image, ci95}`.

    The interval is the exact one of a Poisson mean (Garwood 1936, Biometrika 28:437), with count and number of images
    divided by the dispersion: the squared clustered standard error over that of independent Poisson counts, at least 1.
    Without any count or with a single cluster, the number of images is replaced by the number of clusters.

    Args:
        counts: Counts of n images.
        clusters: n labels; images of one patient or volume share a label.
    """
    n, total = len(counts), sum(counts)
    if not n:
        return {"n": 0, "count": 0, "per_image": None, "ci95": None}
    dispersion = n / len(set(clusters))
    if total and dispersion < n:
        dispersion = max(1.0, clustered_se(counts, clusters) ** 2 * n**2 / total)
    events, images, tail = total / dispersion, n / dispersion, (1 - CONFIDENCE) / 2
    low = float(gammaincinv(events, tail)) / images if total else 0.0
    high = float(gammaincinv(events + 1, 1 - tail)) / images
    return {"n": n, "count": total, "per_image": total / n, "ci95": [low, high]}


def box_lines(results: Mapping[str, Any]) -> list[str]:
    """The metrics of boxes as lines of text; empty if the evaluation has none."""
    return [f"boxes: {name:<28} {value}" for name, value in box_rows(results).items()]


def box_rows(results: Mapping[str, Any]) -> dict[str, str]:
    """Value of each metric of boxes by name, for display; empty if the evaluation has none."""
    boxes = results.get("boxes")
    if not boxes:
        return {}
    iou, false, extra = boxes["mean_iou"], boxes["false_boxes"], boxes["extra_boxes"]
    shares = {"IoU of at least 0.5, %": boxes["localized"], "center inside, %": boxes["center"]}
    shares |= {f"sensitivity, {size}, %": cell for size, cell in boxes["by_size"].items()}
    return {
        "mean IoU": f"{_interval(iou['mean'], iou['ci95'], 2)}, {iou['n']} findings",
        **{name: _interval(cell["percent"], cell["ci95"], 1) for name, cell in shares.items()},
        "false per finding-free image": f"{_interval(false['per_image'], false['ci95'], 2)}, {false['n']} images",
        "extra per other image": f"{_interval(extra['per_image'], extra['ci95'], 2)}, {extra['n']} images",
        "malformed, % of answers": _interval(boxes["malformed"]["percent"], boxes["malformed"]["ci95"], 1),
        "answers without a box label": str(boxes["unknown"]),
    }


def _interval(value: float | None, ends: Sequence[float] | None, digits: int) -> str:
    if value is None or ends is None:
        return "-"
    return f"{value:.{digits}f} [{ends[0]:.{digits}f}, {ends[1]:.{digits}f}]"


def _sizes(sample: Sample, boxes: Sequence[Edges]) -> list[str]:
    """The size class of each box: that of the sample's `truth` if it lists as many sizes, otherwise by its side."""
    stated = [finding.get("size") for finding in stated_findings(sample) or () if isinstance(finding, dict)]
    sizes = [size for size in stated if isinstance(size, str)]
    if len(boxes) == len(stated) == len(sizes):
        return sizes
    sides = [((x2 - x1) * (y2 - y1)) ** 0.5 for x1, y1, x2, y2 in boxes]
    return [next((size for size, bound in SIDES.items() if side < bound), "large") for side in sides]


def _share(rows: Sequence[tuple[bool, Hashable]]) -> dict[str, Any]:
    verdicts, clusters = _columns(rows)
    return share(verdicts, "count", clusters)


def _columns(rows: Sequence[tuple[Any, Hashable]]) -> tuple[list[Any], list[Hashable]]:
    return [value for value, _ in rows], [cluster for _, cluster in rows]
