"""Scoring: metrics of answers, as pure functions of samples and generations.

Strict accuracy uses the rule of the MedVLM-R1 release: a single letter in the answer tag. Lenient accuracy is reported
too, so that a format error is not mistaken for a wrong answer. Under either rule, an answer without a letter is wrong;
the letter is never guessed. Open questions have no letter and no chance level, so they are reported separately. Their
answers are scored from 0 to 1 by the rules of `rewards.open_questions.rules`. Predicted boxes are scored by overlap,
hits, sensitivity by size, and false boxes, with intervals by subject.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import Any

from scipy.special import gammaincinv

from medvlm_r1.console import fill
from medvlm_r1.data.sample import LETTERS, Sample
from medvlm_r1.evaluation.statistics import (
    CONFIDENCE,
    clustered_se,
    clustered_wilson,
    effective_sample_size,
    mean_interval,
)
from medvlm_r1.models.generate import Generation
from medvlm_r1.models.shown import BoxLabel, stated_findings
from medvlm_r1.prompts.boxes import BOX_TEMPLATES, Edges, parse_boxes, without_boxes
from medvlm_r1.prompts.parser import Response, conclusion_text, is_well_formed, parse_response
from medvlm_r1.rewards.box_iou import iou, match_boxes
from medvlm_r1.rewards.box_point import center_inside
from medvlm_r1.rewards.open_questions.rules import OpenScore, score_open
from medvlm_r1.rewards.open_questions.words import Synonyms, read_synonyms

ANSWER_ONLY = "answer-only"
FIRST_MODALITIES = ("MRI", "CT", "X-ray")


@dataclass(frozen=True, slots=True, kw_only=True)
class Graded:
    """A graded answer.

    Attributes:
        sample: the question and its correct answer.
        generation: the completion.
        response: the parsed completion.
        open_score: score of the answer to an open question; None if the question has options.
    """

    sample: Sample
    generation: Generation
    response: Response
    open_score: OpenScore | None = None

    @property
    def correct(self) -> bool:
        """Whether the answer is correct by the strict rule."""
        return self.open_score.value == 1 if self.open_score else self.response.letter == self.sample.letter

    @property
    def lenient_correct(self) -> bool:
        """Whether the answer is correct by the lenient rule."""
        return self.correct if self.open_score else self.response.lenient_letter == self.sample.letter

    @property
    def answered(self) -> bool:
        """Whether the strict rule found an answer."""
        return bool(self.response.answer if self.open_score else self.response.letter)

    @property
    def lenient_answered(self) -> bool:
        """Whether the lenient rule found an answer."""
        return bool(self.response.answer if self.open_score else self.response.lenient_letter)


Verdict = Callable[[Graded], bool]
_correct = attrgetter("correct")


def grade(
    sample: Sample, generation: Generation, template: str = "medvlm-r1", synonyms: Synonyms | None = None
) -> Graded:
    """Grade one completion.

    The strict rule is that of the MedVLM-R1 release: a single letter in the answer tag. If the template asks for a
    letter only, a bare letter also satisfies the strict rule and is well-formed. An answer to an open question is
    correct if its score is 1.

    Args:
        sample: the question.
        generation: the completion.
        template: name of the prompt template.
        synonyms: synonym table for open answers; None for that of the package.
    """
    response = read_as_asked(generation.text, sample.options, template)
    open_score = None
    if not sample.options:
        open_score = score_open(response.answer or "", sample.answer, sample.question, synonyms or read_synonyms())
    return Graded(sample=sample, generation=generation, response=response, open_score=open_score)


def read_as_asked(text: str, options: Sequence[str], template: str) -> Response:
    """Parse a completion. If the template asks for a letter only, a bare letter is an answer too.

    If the template asks for boxes, a well-formed completion may have some between the reasoning and the answer.
    Reasoning before the bare letter is ignored, because a chat template may open a think tag and a server may return
    reasoning.
    """
    response = parse_response(text, options)
    if template in BOX_TEMPLATES:
        return replace(response, well_formed=is_well_formed(without_boxes(text)))
    if template != ANSWER_ONLY:
        return response
    text = conclusion_text(text).strip().removeprefix("<think>").strip()
    bare = text if len(text) == 1 and text in LETTERS else None
    return replace(
        response,
        answer=text if response.answer is None else response.answer,
        letter=response.letter or bare,
        lenient_letter=response.letter or bare or response.lenient_letter,
        well_formed=bare is not None,
    )


def score(
    samples: Sequence[Sample],
    generations: Sequence[Generation],
    template: str = "medvlm-r1",
    synonyms: Synonyms | None = None,
) -> dict[str, Any]:
    """All metrics of one evaluation.

    Args:
        samples: n samples.
        generations: n completions, in the same order.
        template: name of the prompt template.
        synonyms: synonym table for open answers; None for that of the package.

    Returns:
        Metrics over the questions with options. Without such questions, every mean, percent and interval is None:

        * `accuracy`, `lenient`: by modality `{n, correct, percent, ci95, clustered_se}`, and their unweighted `mean`;
        * `accuracy_mean_ci95`, `lenient_mean_ci95`: 95 % intervals of the two means, in percent;
        * `by_type.<modality>.<question type>`: accuracy, see `share`;
        * `well_formed`, `no_answer`, `no_answer_lenient`: see `share`;
        * `chance.<modality>.percent` and its `mean`.

        The `ci95` of an accuracy is the Wilson 95 % interval with the effective sample size, in percent. Its
        `clustered_se` is the standard error clustered by subject, in percentage points.

        Metrics over all answers:

        * `n`, and `cut_off` (see `share`);
        * `mean_reasoning_words`, over answers with a reasoning; None if there are none;
        * `mean_completion_tokens`.

        Metrics over the open questions, under `open`:

        * `percent`: share of answers with score 1;
        * `score`, `score_ci95`: mean score in percent, and its interval;
        * `by_rule`: number and mean score of the answers that each rule decided.

    Raises:
        ValueError: there are no samples, or the lengths differ.
    """
    if not samples:
        raise ValueError("wanted at least one sample, got none")
    graded = [
        grade(sample, generation, template, synonyms) for sample, generation in zip(samples, generations, strict=True)
    ]
    closed = [g for g in graded if g.sample.options]
    names = order_modalities(g.sample.modality for g in closed)
    groups = {name: [g for g in closed if g.sample.modality == name] for name in names}
    chance = {
        name: {"n": len(group), "percent": sum(100 / len(g.sample.options) for g in group) / len(group)}
        for name, group in groups.items()
    }
    return {
        "n": len(graded),
        "open": _open_scores([g for g in graded if g.open_score is not None]),
        **_accuracies("accuracy", groups, _correct),
        **_accuracies("lenient", groups, lambda g: g.lenient_correct),
        "by_type": {
            name: {
                kind: clustered_share([g for g in group if g.sample.question_type == kind], _correct)
                for kind in sorted({g.sample.question_type for g in group} - {""})
            }
            for name, group in groups.items()
        },
        "well_formed": clustered_share(closed, lambda g: g.response.well_formed),
        "no_answer": clustered_share(closed, lambda g: not g.answered, "count"),
        "no_answer_lenient": clustered_share(closed, lambda g: not g.lenient_answered, "count"),
        "cut_off": clustered_share(graded, lambda g: g.generation.truncated, "count"),
        "mean_reasoning_words": _mean(len(g.response.reasoning.split()) for g in graded if g.response.reasoning),
        "mean_completion_tokens": _mean(g.generation.n_tokens for g in graded),
        "chance": chance | {"mean": _mean(entry["percent"] for entry in chance.values())},
    }


def share(
    verdicts: Sequence[bool], counted: str = "correct", clusters: Sequence[Hashable] | None = None
) -> dict[str, Any]:
    """Share of true verdicts: `{n, <counted>, percent, ci95}`, with the Wilson 95 % interval in percent.

    If there are no verdicts, `percent` and `ci95` are None.

    Args:
        verdicts: n verdicts.
        counted: Key in the result for the number of true verdicts.
        clusters: n cluster labels, from which the effective sample size is computed. If None, the verdicts are treated
            as independent.
    """
    k, n = sum(verdicts), len(verdicts)
    if not n:
        return {"n": 0, counted: 0, "percent": None, "ci95": None}
    low, high = clustered_wilson([float(verdict) for verdict in verdicts], clusters or range(n))
    return {"n": n, counted: k, "percent": 100 * k / n, "ci95": [100 * low, 100 * high]}


def clustered_share(graded: Sequence[Graded], verdict: Verdict, counted: str = "correct") -> dict[str, Any]:
    """`share` of the verdicts on graded answers, clustered by patient or volume."""
    return share([verdict(g) for g in graded], counted, [g.sample.cluster for g in graded])


def order_modalities(names: Iterable[str]) -> list[str]:
    """Distinct modality names: first those of the paper's table (MRI, CT, X-ray), then the others alphabetically."""
    rank = {name: i for i, name in enumerate(FIRST_MODALITIES)}
    return sorted(set(names), key=lambda name: (rank.get(name, len(rank)), name))


def _accuracies(name: str, groups: Mapping[str, Sequence[Graded]], verdict: Verdict) -> dict[str, Any]:
    """The accuracy of each group, the unweighted mean of these accuracies, and the interval of the mean."""
    accuracies, counts = {}, []
    for modality, group in groups.items():
        values, clusters = [float(verdict(g)) for g in group], [g.sample.cluster for g in group]
        error = 100 * clustered_se(values, clusters)
        accuracies[modality] = clustered_share(group, verdict) | {"clustered_se": error}
        size = effective_sample_size(values, clusters)
        counts.append((sum(values) / len(values) * size, size))
    return {
        name: accuracies | {"mean": _mean(accuracy["percent"] for accuracy in accuracies.values())},
        f"{name}_mean_ci95": [100 * end for end in mean_interval(counts)] if counts else None,
    }


def _open_scores(graded: Sequence[Graded]) -> dict[str, Any]:
    """Metrics of the answers to open questions (see `score`)."""
    scores = [g.open_score for g in graded if g.open_score is not None]
    values = [100 * entry.value for entry in scores]
    ends = clustered_wilson([value / 100 for value in values], [g.sample.cluster for g in graded]) if graded else ()
    rules = sorted({entry.rule for entry in scores})
    groups = {str(rule): [100 * entry.value for entry in scores if entry.rule == rule] for rule in rules}
    return {
        **clustered_share(graded, _correct),
        "score": _mean(values),
        "score_ci95": [100 * end for end in ends] or None,
        "by_rule": {rule: {"n": len(group), "score": _mean(group)} for rule, group in groups.items()},
    }


def _mean(values: Iterable[float]) -> float | None:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else None


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
        A dictionary. For shares, see `share`:

        * `n`, `unknown`: numbers of samples with known and with unknown boxes;
        * `mean_iou`: over the true boxes, `{n, mean, ci95}` from 0 to 1;
        * `localized`: share of the true boxes with an IoU of at least 0.5;
        * `center`: share of the true boxes that contain the center of a predicted box;
        * `by_size.<size>`: `localized` by size class, which is that of `truth` or otherwise follows from `SIDES`;
        * `false_boxes`: predicted boxes in images without a finding, `{n, count, per_image, ci95}`;
        * `extra_boxes`: boxes beyond one per finding in the other images, `{n, count, per_image, ci95}`;
        * `malformed`: share of completions with a malformed box. `false_boxes` and `extra_boxes` include malformed
          boxes.
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


def report_lines(results: Mapping[str, Any]) -> list[str]:
    """The metrics of an evaluation as lines of text."""
    return fill(Path(__file__).with_name("report.txt"), results=results, boxes=box_rows(results))


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
