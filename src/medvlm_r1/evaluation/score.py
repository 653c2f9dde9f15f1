"""Scoring: from answers to figures, as pure functions of samples and generations.

Strict accuracy is the release's rule (a single letter in the answer tag). Lenient accuracy is reported too, so that a
format error is not mistaken for a wrong answer. Unparsed answers are wrong under both rules; nothing is guessed. Open
questions have no letter and no chance level, so they are counted separately.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from medvlm_r1.data.names import folded
from medvlm_r1.data.sample import LETTERS, Sample
from medvlm_r1.evaluation.statistics import clustered_se, clustered_wilson, effective_sample_size, mean_interval, wilson
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
    return _read_bare(response, conclusion_text(text).strip().removeprefix("<think>").strip())


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
    unlettered = [g for g in graded if not g.sample.options]
    groups = _by_modality(closed)
    accuracy = {name: _accuracy(group, [g.correct for g in group]) for name, group in groups.items()}
    lenient = {name: _accuracy(group, [g.lenient_correct for g in group]) for name, group in groups.items()}
    chance = {
        name: {"n": len(group), "percent": sum(100 / len(g.sample.options) for g in group) / len(group)}
        for name, group in groups.items()
    }
    return {
        "n": len(graded),
        "open": clustered_share(unlettered, [g.correct for g in unlettered]),
        "accuracy": accuracy | {"mean": _mean(part["percent"] for part in accuracy.values())},
        "accuracy_mean_ci95": _mean_ci95([(group, [g.correct for g in group]) for group in groups.values()]),
        "lenient": lenient | {"mean": _mean(part["percent"] for part in lenient.values())},
        "lenient_mean_ci95": _mean_ci95([(group, [g.lenient_correct for g in group]) for group in groups.values()]),
        "by_type": {name: _by_type(group) for name, group in groups.items()},
        "well_formed": clustered_share(closed, [g.response.well_formed for g in closed]),
        "no_answer": clustered_share(closed, [not g.answered for g in closed], "count"),
        "no_answer_lenient": clustered_share(closed, [not g.lenient_answered for g in closed], "count"),
        "cut_off": clustered_share(graded, [g.generation.truncated for g in graded], "count"),
        "mean_reasoning_words": _mean(len(g.response.reasoning.split()) for g in graded if g.response.reasoning),
        "mean_completion_tokens": _mean(g.generation.n_tokens for g in graded),
        "chance": chance | {"mean": _mean(part["percent"] for part in chance.values())},
    }


def share(verdicts: Sequence[bool], counted: str = "correct") -> dict[str, Any]:
    """Count of true verdicts: `{n, <counted>, percent, ci95}` with the Wilson 95 % interval in percent.

    Without verdicts the percent and the interval are None.
    """
    k, n = sum(verdicts), len(verdicts)
    if not n:
        return {"n": 0, counted: 0, "percent": None, "ci95": None}
    low, high = wilson(k, n)
    return {"n": n, counted: k, "percent": 100 * k / n, "ci95": [100 * low, 100 * high]}


def clustered_share(graded: Sequence[Graded], verdicts: Sequence[bool], counted: str = "correct") -> dict[str, Any]:
    """`share` of the verdicts on these answers, with the interval of their effective sample size.

    Answers about one patient or volume are correlated. If each has its own subject, it is Wilson's interval.
    """
    found = share(verdicts, counted)
    low, high = clustered_wilson([float(verdict) for verdict in verdicts], [g.cluster for g in graded])
    return found | {"ci95": [100 * low, 100 * high]} if verdicts else found


def order_modalities(names: Iterable[str]) -> list[str]:
    """Distinct names in the order of the paper's table (MRI, CT, X-ray), then the others alphabetically."""
    rank = {name: i for i, name in enumerate(FIRST_MODALITIES)}
    return sorted(set(names), key=lambda name: (rank.get(name, len(rank)), name))


def _by_modality(graded: Sequence[Graded]) -> dict[str, list[Graded]]:
    names = order_modalities(g.sample.modality for g in graded)
    return {name: [g for g in graded if g.sample.modality == name] for name in names}


def _by_type(graded: Sequence[Graded]) -> dict[str, dict[str, Any]]:
    types = sorted({g.sample.question_type for g in graded} - {""})
    alike = {name: [g for g in graded if g.sample.question_type == name] for name in types}
    return {name: clustered_share(group, [g.correct for g in group]) for name, group in alike.items()}


def _accuracy(graded: Sequence[Graded], verdicts: Sequence[bool]) -> dict[str, Any]:
    error = clustered_se([float(verdict) for verdict in verdicts], [g.cluster for g in graded])
    return clustered_share(graded, verdicts) | {"clustered_se": 100 * error}


def _mean_ci95(groups: Sequence[tuple[Sequence[Graded], Sequence[bool]]]) -> list[float] | None:
    counts = []
    for graded, verdicts in groups:
        size = effective_sample_size([float(verdict) for verdict in verdicts], [g.cluster for g in graded])
        counts.append((sum(verdicts) / len(verdicts) * size, size))
    return [100 * end for end in mean_interval(counts)] if counts else None


def _mean(values: Iterable[float]) -> float | None:
    numbers = list(values)
    return sum(numbers) / len(numbers) if numbers else None


def _read_bare(response: Response, text: str) -> Response:
    """The response when the whole text should be the answer."""
    bare = text if len(text) == 1 and text in LETTERS else None
    return replace(
        response,
        answer=text if response.answer is None else response.answer,
        letter=response.letter or bare,
        lenient_letter=response.letter or bare or response.lenient_letter,
        well_formed=bare is not None,
    )
