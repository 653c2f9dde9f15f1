"""Two models on the same items: paired, because unpaired intervals that overlap say little about a difference."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medvlm_r1.errors import RESEARCH_USE, UserError
from medvlm_r1.evaluation.score import Graded, clustered_share, order_modalities
from medvlm_r1.evaluation.statistics import flipped_subjects, paired_bootstrap
from medvlm_r1.evaluation.store import StoredAnswer, read_answers

Pair = tuple[Graded, Graded]
MCNEMAR, SIGN_FLIPS = "McNemar", "sign flips of subjects"


def compare(run_a: Path | str, run_b: Path | str) -> dict[str, Any]:
    """Compare the answers in two run folders, item by item.

    Args:
        run_a: folder of the first evaluation.
        run_b: folder of the second; differences are b minus a.

    Returns:
        `run_a`, `run_b` and what `compare_answers` returns.

    Raises:
        UserError: a folder has no answers, or the two do not share items.
    """
    a, b = Path(run_a), Path(run_b)
    comparison = compare_answers(read_answers(a), read_answers(b), names=(str(a), str(b)))
    return {"run_a": str(a), "run_b": str(b)} | comparison


def compare_answers(a: Sequence[StoredAnswer], b: Sequence[StoredAnswer], *, names: tuple[str, str]) -> dict[str, Any]:
    """Compare two lists of answers on the items both contain, by strict accuracy.

    Args:
        a: answers of the first run.
        b: answers of the second run.
        names: what to call the runs in an error.

    Returns:
        `n_shared`, `only_in_a`, `only_in_b` (items without a partner, left out), `modalities.<modality>` and `all`,
        each `{n, accuracy_a, accuracy_b, difference, ci95, b, c, p, test}`: accuracies `{n, correct, percent, ci95}`;
        the difference b - a and its interval (paired bootstrap over subjects, 10,000 draws, seed 0) in percentage
        points; the discordant counts b (right in a only) and c (right in b only); the p value of the `test`: exact
        McNemar, or exact sign flips of whole subjects where a subject has several items.

    Raises:
        UserError: no item is in both, or one id stands for two different questions.
    """
    left = {answer.sample.id: answer for answer in a}
    right = {answer.sample.id: answer for answer in b}
    shared = [name for name in left if name in right]
    if not shared:
        raise UserError(
            f"{names[0]} ({len(left)} items) and {names[1]} ({len(right)} items) have no item in common;"
            " wanted two evaluations on the same data folder"
        )
    pairs = []
    for name in shared:
        first, second = left[name].sample, right[name].sample
        if (first.question, first.options, first.answer) != (second.question, second.options, second.answer):
            raise UserError(
                f"{names[0]} and {names[1]}: id {name!r} is a different question in each"
                f" ({first.question!r} and {second.question!r}); wanted two evaluations on the same data folder"
            )
        pairs.append((left[name].graded(), right[name].graded()))
    by_modality = {
        modality: _difference([pair for pair in pairs if pair[0].sample.modality == modality])
        for modality in order_modalities(pair[0].sample.modality for pair in pairs)
    }
    return {
        "research_use": RESEARCH_USE,
        "n_shared": len(pairs),
        "only_in_a": len(left) - len(pairs),
        "only_in_b": len(right) - len(pairs),
        "modalities": by_modality,
        "all": _difference(pairs),
    }


def _difference(pairs: Sequence[Pair]) -> dict[str, Any]:
    right_a = [a.correct for a, _ in pairs]
    right_b = [b.correct for _, b in pairs]
    only_a = sum(a and not b for a, b in zip(right_a, right_b, strict=True))
    only_b = sum(b and not a for a, b in zip(right_a, right_b, strict=True))
    clusters = [a.cluster for a, _ in pairs]
    interval = paired_bootstrap(right_a, right_b, clusters)
    return {
        "n": len(pairs),
        "accuracy_a": clustered_share([a for a, _ in pairs], right_a),
        "accuracy_b": clustered_share([b for _, b in pairs], right_b),
        "difference": 100 * interval.difference,
        "ci95": [100 * interval.low, 100 * interval.high],
        "b": only_a,
        "c": only_b,
        "p": flipped_subjects([int(b) - int(a) for a, b in zip(right_a, right_b, strict=True)], clusters),
        "test": MCNEMAR if len(set(clusters)) == len(pairs) else SIGN_FLIPS,
    }
