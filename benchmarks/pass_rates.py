"""`python -m benchmarks.pass_rates`: compare `data difficulty` with completions sampled one prompt per row.

`data difficulty` runs each prompt once for all its completions. The comparison samples with transformers' `generate`,
which runs the prompt once per completion, with other seeds. Re-run to resume.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from statsmodels.stats.proportion import confint_proportions_2indep  # type: ignore[import-untyped]

from benchmarks.command import run
from medvlm_r1.audit.difficulty import estimate_difficulty
from medvlm_r1.cli.options import Json, folder_to_write, print_result
from medvlm_r1.console import Advance, progress_bar
from medvlm_r1.data.difficulty import read_pass_rates
from medvlm_r1.data.folder import read_folder
from medvlm_r1.data.images import load_image
from medvlm_r1.data.rows import append_rows, read_json_lines
from medvlm_r1.errors import RESEARCH_USE
from medvlm_r1.evaluation.score import grade
from medvlm_r1.evaluation.store import write_results
from medvlm_r1.models.generate import GenerationInput, GenerationSettings, LocalGenerator
from medvlm_r1.models.load import load_policy
from medvlm_r1.phantom.benchmark import write_benchmark
from medvlm_r1.prompts.templates import messages

MODEL = "phantom-base"
MAX_NEW_TOKENS = 64
TEMPERATURE = 1.0


class Counts(NamedTuple):
    """Correct completions and completions of one question."""

    correct: int
    samples: int


def bench_pass_rates(out: Path, *, items: int = 200, samples: int = 16, direct: int = 64) -> dict[str, Any]:
    """Estimate the pass rates of the first questions of PhantomVQA in both ways.

    Args:
        out: Folder of the questions and the results.
        items: Number of MRI questions.
        samples: Number of completions of each question in `data difficulty`.
        direct: Number of completions of each question in the comparison.

    Returns:
        The content of `results.json`: see `agreement`.
    """
    folder = out / "data"
    if not (folder / "samples.jsonl").exists():
        with progress_bar("Questions") as advance:
            write_benchmark(folder, split="train", n=items, progress=advance)
    settings = GenerationSettings(max_new_tokens=MAX_NEW_TOKENS, temperature=TEMPERATURE)
    with progress_bar("Pass rates") as advance:
        estimate_difficulty(MODEL, folder, settings, samples=samples, progress=advance)
    with progress_bar("Direct samples") as advance:
        known = _direct(folder, out / "direct.jsonl", direct, advance)
    shared = read_pass_rates(folder)
    results = agreement([(Counts(rate.correct, rate.samples), known[name]) for name, rate in shared.items()])
    write_results(out, results)
    return results


def _direct(folder: Path, file: Path, count: int, advance: Advance) -> dict[str, Counts]:
    """Sample from copies of each prompt, and append the number of correct completions to a file."""
    rows = [row for _, row in read_json_lines(file, growing=True)] if file.exists() else []
    known = {row["id"]: Counts(row["correct"], row["samples"]) for row in rows}
    generator = LocalGenerator(policy=load_policy(MODEL), batch_size=count)
    samples = read_folder(folder)
    for number, sample in enumerate(samples):
        if sample.id not in known:
            images = [load_image(folder / name) for name in sample.images]
            item = GenerationInput(prompt=messages(sample), images=images)
            # Far from the seeds of `data difficulty`.
            settings = GenerationSettings(
                max_new_tokens=MAX_NEW_TOKENS, temperature=TEMPERATURE, seed=1_000_000 + number
            )
            correct = sum(grade(sample, answer).correct for answer in generator.generate([item] * count, settings))
            append_rows(file, [{"id": sample.id, "correct": correct, "samples": count}])
            known[sample.id] = Counts(correct, count)
        advance(number + 1, len(samples))
    return known


def agreement(pairs: Sequence[tuple[Counts, Counts]]) -> dict[str, Any]:
    """Compare two estimates of the pass rates of the same questions.

    Args:
        pairs: Counts of both estimates for each question.

    Returns:
        Number of questions `n`, the mean pass rates in percent, `difference` (mean of the first minus the second,
        points) with its `standard_error` over questions, and `outside`: percent of the questions whose 95 % interval of
        the difference (Newcombe's, statsmodels) excludes 0.
    """
    differences = [100 * (a.correct / a.samples - b.correct / b.samples) for a, b in pairs]
    intervals = [confint_proportions_2indep(*a, *b, method="newcomb") for a, b in pairs]
    return {
        "research_use": RESEARCH_USE,
        "n": len(pairs),
        "shared": statistics.fmean(100 * a.correct / a.samples for a, _ in pairs),
        "direct": statistics.fmean(100 * b.correct / b.samples for _, b in pairs),
        "difference": statistics.fmean(differences),
        "standard_error": statistics.stdev(differences) / len(pairs) ** 0.5,
        "outside": 100 * sum(not low <= 0 <= high for low, high in intervals) / len(pairs),
    }


def main(
    out: Annotated[
        Path, typer.Option(callback=folder_to_write, help="Folder of questions and results. Re-run to resume.")
    ] = Path("runs/bench-pass-rates"),
    items: Annotated[int, typer.Option(min=2, help="Number of MRI questions.")] = 200,
    samples: Annotated[int, typer.Option(min=1, help="Completions per question in `data difficulty`.")] = 16,
    direct: Annotated[int, typer.Option(min=1, help="Completions per question in the comparison.")] = 64,
    as_json: Json = False,
) -> None:
    """Compare the pass rates of `data difficulty` with direct samples of the same model.

    Example: python -m benchmarks.pass_rates --items 50
    """
    results = bench_pass_rates(out, items=items, samples=samples, direct=direct)
    lines = [
        f"{results['n']} questions: mean pass rate {results['shared']:.1f} % shared, {results['direct']:.1f} % direct.",
        f"Difference {results['difference']:+.1f} points (standard error {results['standard_error']:.1f}); "
        f"{results['outside']:.1f} % of the differences are outside their 95 % interval.",
        RESEARCH_USE,
    ]
    print_result(results, lines, as_json=as_json)


if __name__ == "__main__":
    run(main, "pass_rates")
