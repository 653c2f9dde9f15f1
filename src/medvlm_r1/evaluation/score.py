"""Scoring: from answers to figures, as pure functions of samples and generations.

Strict accuracy is the release's rule (a single letter in the answer tag). Lenient accuracy is reported too, so that a
format error is not mistaken for a wrong answer. Unparsed answers are wrong under both rules; nothing is guessed. Open
questions have no letter and no chance level, so they are counted separately.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import attrgetter
from typing import Any

from medvlm_r1.data.names import folded
from medvlm_r1.data.sample import LETTERS, Sample
from medvlm_r1.evaluation.statistics import clustered_se, clustered_wilson, effective_sample_size, mean_interval
from medvlm_r1.models.generate import Generation
from medvlm_r1.prompts.parser import Response, conclusion_text, parse_response

ANSWER_ONLY = "answer-only"
FIRST_MODALITIES = ("MRI", "CT", "X-ray")


@dataclass(frozen=True, slots=True, kw_only=True)
class Graded:
    """A graded answer.

    Attributes:
        sample: the question and its correct answer.
        generation: the completion.
        response: the parsed completion.
        correct: correct by the strict rule.
        lenient_correct: correct by the lenient rule.
        answered: the strict rule found an answer.
        lenient_answered: the lenient rule found an answer.
    """

    sample: Sample
    generation: Generation
    response: Response
    correct: bool
    lenient_correct: bool
    answered: bool
    lenient_answered: bool

    @property
    def cluster(self) -> str:
        """The patient or volume, or the item itself where that is unknown."""
        return self.sample.cluster


Verdict = Callable[[Graded], bool]
_correct = attrgetter("correct")


def grade(sample: Sample, generation: Generation, template: str = "medvlm-r1") -> Graded:
    """Grade one completion.

    The strict rule is the release's (a single letter in the answer tag). If the template asks for a letter only, the
    letter alone satisfies it too, and is well-formed. An open question is correct when the answer equals the sample's,
    ignoring case, white space and a final full stop.

    Args:
        sample: the question.
        generation: the completion.
        template: name of the prompt template.
    """
    response = read_as_asked(generation.text, sample.options, template)
    if sample.options:
        strict, lenient, right = response.letter, response.lenient_letter, sample.letter
    else:
        strict = lenient = None if response.answer is None else folded(response.answer)
        right = folded(sample.answer)
    return Graded(
        sample=sample,
        generation=generation,
        response=response,
        correct=strict == right,
        lenient_correct=lenient == right,
        answered=bool(strict),
        lenient_answered=bool(lenient),
    )


def read_as_asked(text: str, options: Sequence[str], template: str) -> Response:
    """Parse a completion. If the template asks for a letter only, the letter alone is an answer too.

    A reasoning before the letter is ignored: a chat template can open it, and a server can return it.
    """
    response = parse_response(text, options)
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


def score(samples: Sequence[Sample], generations: Sequence[Generation], template: str = "medvlm-r1") -> dict[str, Any]:
    """All figures of one evaluation.

    Args:
        samples: n samples.
        generations: n completions, in the same order.
        template: name of the prompt template.

    Returns:
        Figures of the questions with options: `accuracy` and `lenient` by modality, each `{n, correct, percent, ci95,
        clustered_se}` (percent, Wilson 95 % interval with the effective sample size, standard error clustered by
        subject), and their unweighted `mean`; `accuracy_mean_ci95`, `lenient_mean_ci95`;
        `by_type.<modality>.<question type>`; `well_formed`, `no_answer` and `no_answer_lenient` as shares;
        `chance.<modality>.percent` and its `mean`. Without such a question every mean, percent and interval is None.
        Figures of all answers: `n`, `cut_off` (a share), `mean_reasoning_words` (over answers with a reasoning, None
        without any), `mean_completion_tokens`. `open`: the share of open questions answered in the reference's words.

    Raises:
        ValueError: no sample, or the lengths differ.
    """
    if not samples:
        raise ValueError("wanted at least one sample, got none")
    graded = [grade(sample, generation, template) for sample, generation in zip(samples, generations, strict=True)]
    closed = [g for g in graded if g.sample.options]
    names = order_modalities(g.sample.modality for g in closed)
    groups = {name: [g for g in closed if g.sample.modality == name] for name in names}
    chance = {
        name: {"n": len(group), "percent": sum(100 / len(g.sample.options) for g in group) / len(group)}
        for name, group in groups.items()
    }
    return {
        "n": len(graded),
        "open": clustered_share([g for g in graded if not g.sample.options], _correct),
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
    """Count of true verdicts: `{n, <counted>, percent, ci95}` with the Wilson 95 % interval in percent.

    Without verdicts the percent and the interval are None.

    Args:
        verdicts: n verdicts.
        counted: Name of the count.
        clusters: n labels. The interval is that of the effective sample size; by default verdicts are independent.
    """
    k, n = sum(verdicts), len(verdicts)
    if not n:
        return {"n": 0, counted: 0, "percent": None, "ci95": None}
    low, high = clustered_wilson([float(verdict) for verdict in verdicts], clusters or range(n))
    return {"n": n, counted: k, "percent": 100 * k / n, "ci95": [100 * low, 100 * high]}


def clustered_share(graded: Sequence[Graded], verdict: Verdict, counted: str = "correct") -> dict[str, Any]:
    """`share` of the verdicts on these answers. Answers about one patient or volume are correlated."""
    return share([verdict(g) for g in graded], counted, [g.cluster for g in graded])


def order_modalities(names: Iterable[str]) -> list[str]:
    """Distinct names in the order of the paper's table (MRI, CT, X-ray), then the others alphabetically."""
    rank = {name: i for i, name in enumerate(FIRST_MODALITIES)}
    return sorted(set(names), key=lambda name: (rank.get(name, len(rank)), name))


def _accuracies(name: str, groups: Mapping[str, Sequence[Graded]], verdict: Verdict) -> dict[str, Any]:
    """The accuracy of each group, their unweighted mean, and the interval of the mean."""
    accuracies, counts = {}, []
    for modality, group in groups.items():
        values, clusters = [float(verdict(g)) for g in group], [g.cluster for g in group]
        error = 100 * clustered_se(values, clusters)
        accuracies[modality] = clustered_share(group, verdict) | {"clustered_se": error}
        size = effective_sample_size(values, clusters)
        counts.append((sum(values) / len(values) * size, size))
    return {
        name: accuracies | {"mean": _mean(accuracy["percent"] for accuracy in accuracies.values())},
        f"{name}_mean_ci95": [100 * end for end in mean_interval(counts)] if counts else None,
    }


def _mean(values: Iterable[float]) -> float | None:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else None
