"""Paired comparison of two models on the same items."""

from collections.abc import Callable, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

from medvlm_r1.errors import RESEARCH_USE, UserError
from medvlm_r1.evaluation.score import Graded, clustered_share, order_modalities
from medvlm_r1.evaluation.statistics import cluster_sign_flip_test, paired_difference
from medvlm_r1.evaluation.store import StoredAnswer, read_answers, read_results

MCNEMAR, SIGN_FLIPS = "McNemar", "sign flips of subjects"


def compare(run_a: Path | str, run_b: Path | str) -> dict[str, Any]:
    """Compare two evaluations item by item.

    Args:
        run_a: folder of the first evaluation.
        run_b: folder of the second evaluation. Differences are b minus a.

    Returns:
        `run_a`, `run_b` and the fields of `compare_answers`. `settings_differ` also covers the image size limits.

    Raises:
        UserError: a folder has no answers, or the two cannot be compared item by item.
    """
    a, b = Path(run_a), Path(run_b)
    comparison = compare_answers(read_answers(a), read_answers(b), names=(str(a), str(b)))
    bounds = [_pixel_bounds(run) for run in (a, b)]
    if None not in bounds and bounds[0] != bounds[1]:
        comparison["settings_differ"] += [f"image size limits ({bounds[0]} and {bounds[1]})"]
    return {"run_a": str(a), "run_b": str(b)} | comparison


def compare_answers(a: Sequence[StoredAnswer], b: Sequence[StoredAnswer], *, names: tuple[str, str]) -> dict[str, Any]:
    """Compare the strict accuracy of two runs on the questions with options that both runs contain.

    Args:
        a: answers of the first run.
        b: answers of the second run.
        names: names of the two runs in error messages.

    Returns:
        A dictionary. Items of only one run and open questions are counted, but not compared:

        * `settings_differ`: settings, other than the model, that differ;
        * `n_shared`, `n_open`: number of shared items, and of open questions among them;
        * `only_in_a`, `only_in_b`: numbers of items of only one run;
        * `modalities.<modality>` and `all`: `{n, accuracy_a, accuracy_b, difference, ci95, b, c, p, test}`.

        An accuracy is `{n, correct, percent, ci95}`. The difference (b minus a) and its interval (`paired_difference`)
        are in percentage points. `b` counts the items correct only in run a, and `c` those correct only in run b. `p`
        is the p value of `test`: exact McNemar, or exact sign flips of whole subjects if a subject has several items.

    Raises:
        UserError: no question with options is in both runs, or one id belongs to different questions or images.
    """
    left = {answer.sample.id: answer for answer in a}
    right = {answer.sample.id: answer for answer in b}
    shared = [(left[name], right[name]) for name in left if name in right]
    if not shared:
        raise UserError(
            f"{names[0]} ({len(left)} items) and {names[1]} ({len(right)} items) have no item in common;"
            " wanted two evaluations on the same data folder"
        )
    clashes = [(first.sample.id, clash) for first, second in shared if (clash := _clash(first, second))]
    if clashes:
        item, clash = clashes[0]
        raise UserError(
            f"{names[0]} and {names[1]}: {len(clashes)} of {len(shared)} ids they share stand for different items;"
            f" {item!r} has {clash}. Wanted two evaluations on the same data folder; run one of them again"
        )
    pairs = [(first.graded(), second.graded()) for first, second in shared if first.sample.options]
    if not pairs:
        raise UserError(
            f"{names[0]} and {names[1]}: all {len(shared)} items that both have are open questions (no options), which"
            " have no accuracy; wanted evaluations of questions with options"
        )
    by_modality = {
        modality: _difference([pair for pair in pairs if pair[0].sample.modality == modality])
        for modality in order_modalities(pair[0].sample.modality for pair in pairs)
    }
    return {
        "research_use": RESEARCH_USE,
        "settings_differ": _settings(shared),
        "n_shared": len(shared),
        "n_open": len(shared) - len(pairs),
        "only_in_a": len(left) - len(shared),
        "only_in_b": len(right) - len(shared),
        "modalities": by_modality,
        "all": _difference(pairs),
    }


def left_out(comparison: Mapping[str, Any]) -> str:
    """Counts of compared and excluded questions in one line."""
    n, absent = comparison["all"]["n"], (comparison["only_in_a"], comparison["only_in_b"])
    open_ = f", {comparison['n_open']} open questions in both" if comparison["n_open"] else ""
    return f"Compared: {n} questions. Left out: {absent[0]} only in the first, {absent[1]} only in the second{open_}."


def _clash(first: StoredAnswer, second: StoredAnswer) -> str:
    """How two items with the same id differ; empty if they are the same."""
    a, b = first.sample, second.sample
    if a.question != b.question:
        return f"different questions ({a.question!r} and {b.question!r})"
    if a.options != b.options:
        how = "the same options in another order" if sorted(a.options) == sorted(b.options) else "different options"
        return f"{how} ({' / '.join(a.options)} and {' / '.join(b.options)})"
    if a.answer != b.answer:
        return f"different correct answers ({a.answer!r} and {b.answer!r})"
    return "" if first.key.pixels == second.key.pixels else "different images (the pixels are not the same)"


def _settings(shared: Sequence[tuple[StoredAnswer, StoredAnswer]]) -> list[str]:
    """Settings other than the model's name that differ between the two runs, one phrase each."""

    def values(read: Callable[[StoredAnswer], Any]) -> tuple[str, str]:
        first, second = ({read(answer) for answer in answers} for answers in zip(*shared, strict=True))
        return ", ".join(map(str, sorted(first))), ", ".join(map(str, sorted(second)))

    template = values(lambda answer: answer.template)
    settings = {"prompt template": template}
    for name in ("max_new_tokens", "temperature", "seed"):
        settings[name] = values(attrgetter(f"key.{name}"))
    differ = [f"{name} ({first} and {second})" for name, (first, second) in settings.items() if first != second]
    reworded = sum(first.key.prompt != second.key.prompt for first, second in shared)
    if reworded and template[0] == template[1]:
        differ.append(f"wording of the prompt (in {reworded} of {len(shared)} items, under one template's name)")
    models, weights = values(lambda answer: answer.model), values(lambda answer: answer.key.model)
    if models[0] == models[1] and weights[0] != weights[1]:
        differ.append(f"files of the model ({models[0]!r} in both, but other weights or processor files)")
    return differ


def _pixel_bounds(run: Path) -> str | None:
    """Image size limits of an evaluation's image processor, as text; None if its results do not contain them."""
    try:
        limits = read_results(run).get("image_size")
    except UserError:
        return None
    return ", ".join(f"{name} {value}" for name, value in limits.items()) if isinstance(limits, dict) else None


def _difference(pairs: Sequence[tuple[Graded, Graded]]) -> dict[str, Any]:
    correct_a = [a.correct for a, _ in pairs]
    correct_b = [b.correct for _, b in pairs]
    gains = [int(b) - int(a) for a, b in zip(correct_a, correct_b, strict=True)]
    clusters = [a.sample.cluster for a, _ in pairs]
    difference, low, high = (100 * value for value in paired_difference(correct_a, correct_b, clusters))
    return {
        "n": len(pairs),
        "accuracy_a": clustered_share([a for a, _ in pairs], lambda g: g.correct),
        "accuracy_b": clustered_share([b for _, b in pairs], lambda g: g.correct),
        "difference": difference,
        "ci95": [low, high],
        "b": gains.count(-1),
        "c": gains.count(1),
        "p": cluster_sign_flip_test(gains, clusters),
        "test": MCNEMAR if len(set(clusters)) == len(pairs) else SIGN_FLIPS,
    }
