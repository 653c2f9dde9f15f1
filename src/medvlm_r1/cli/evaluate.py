"""The `eval`, `compare` and `data difficulty` commands."""

from pathlib import Path
from typing import Annotated, Any

import typer

from medvlm_r1.cli.data import data_app
from medvlm_r1.cli.options import (
    Data,
    Dtype,
    Json,
    Limit,
    Model,
    NewTokens,
    Out,
    SkipMissing,
    Template,
    complete_model,
    described,
    print_result,
)
from medvlm_r1.errors import RESEARCH_USE
from medvlm_r1.stopping import stop_on_sigterm


@described
def eval_command(
    model: Model,
    *,
    data: Data,
    out: Out,
    skip_missing: SkipMissing = False,
    limit: Limit = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    max_new_tokens: NewTokens = 512,
    template: Template = "medvlm-r1",
    dtype: Dtype = "auto",
    synonyms: Annotated[Path | None, typer.Option(metavar="FILE")] = None,
    judge: Annotated[str | None, typer.Option(metavar="openai:URL#NAME")] = None,
    as_json: Json = False,
) -> None:
    """Answer every question of a data folder with greedy decoding, and score the answers. Re-run to resume.

    Example: medvlm-r1 eval phantom-base --data data/phantom/test --out runs/zero-shot

    Options:
        batch_size: Questions per batch; for a server, parallel requests.
        synonyms: Your synonyms for open answers: a group of terms per line, separated by tabs.
        judge: Also ask this model whether open answers are correct, and report its agreement with the rules.
    """
    from medvlm_r1.console import progress_bar

    with stop_on_sigterm(out), progress_bar("Answers") as advance:
        from medvlm_r1.evaluation.run import evaluate
        from medvlm_r1.evaluation.score import report_lines

        rows: dict[str, Any] = {"limit": limit, "batch_size": batch_size, "skip_missing": skip_missing}
        answers: dict[str, Any] = {"max_new_tokens": max_new_tokens, "template": template}
        answers |= {"synonyms": synonyms, "judge": judge}
        results = evaluate(model, data, out, **rows, **answers, dtype=dtype, progress=advance)
    lines = [*report_lines(results), f"Results: {out / 'results.json'}", RESEARCH_USE]
    print_result(results, lines, as_json=as_json)


@described
def compare_command(
    run_a: Path,
    run_b: Path,
    *,
    as_json: Json = False,
) -> None:
    """Compare two evaluations item by item: difference with 95 % interval, and an exact test, clustered by subject.

    Settings that differ (template, token limit, image size) are listed first. Runs whose images, questions or options
    differ under the same ids are refused.

    Example: medvlm-r1 compare runs/zero-shot runs/grpo

    Options:
        run_a: Run folder of an evaluation.
        run_b: Run folder of another evaluation on the same data.
    """
    from medvlm_r1.console import stderr_console

    with stderr_console().status("Comparing"):
        from medvlm_r1.evaluation.compare import compare, left_out

        result = compare(run_a, run_b)
    lines = [*(f"Settings differ: {setting}" for setting in result["settings_differ"]), left_out(result)]
    for name, row in [*result["modalities"].items(), ("all", result["all"])]:
        low, high = row["ci95"]
        lines.append(
            f"{name:<8} n {row['n']:>5}  {row['accuracy_a']['percent']:5.1f} % -> {row['accuracy_b']['percent']:5.1f} %"
            f"  difference {row['difference']:+.1f} [{low:+.1f}, {high:+.1f}]"
            f"  correct in A only / B only {row['b']} / {row['c']}  {row['test']} p {row['p']:.2g}"
        )
    print_result(result, [*lines, RESEARCH_USE], as_json=as_json)


@data_app.command("difficulty")
@described
def difficulty_command(
    folder: Annotated[Path, typer.Argument(metavar="DIR")],
    *,
    model: Annotated[str, typer.Option(autocompletion=complete_model)],
    samples: Annotated[int, typer.Option(metavar="N", min=1)] = 16,
    temperature: Annotated[float, typer.Option(min=0.01)] = 1.0,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    skip_missing: SkipMissing = False,
    limit: Limit = None,
    batch_size: Annotated[int | None, typer.Option(min=1)] = None,
    max_new_tokens: NewTokens = 512,
    template: Template = "medvlm-r1",
    dtype: Dtype = "auto",
    as_json: Json = False,
) -> None:
    """Estimate how often a model answers each question correctly, and write DIR/difficulty.jsonl. Re-run to resume.

    Training uses this file if `data.pass_rate` or `data.order` is set.

    Example: medvlm-r1 data difficulty data/phantom/train --model phantom-base

    Options:
        folder: Data folder.
        model: The model to be trained, named as for `eval`.
        samples: Completions per question.
        temperature: Sampling temperature.
        seed: Seed of the completions.
        batch_size: Questions per batch; for a server, parallel requests.
    """
    from medvlm_r1.console import progress_bar

    with stop_on_sigterm(folder), progress_bar("Pass rates") as advance:
        from medvlm_r1.audit.difficulty import estimate_difficulty
        from medvlm_r1.models.generate import GenerationSettings

        settings = GenerationSettings(max_new_tokens=max_new_tokens, temperature=temperature, seed=seed)
        rows: dict[str, Any] = {"limit": limit, "batch_size": batch_size, "skip_missing": skip_missing}
        names: dict[str, Any] = {"template": template, "dtype": dtype}
        result = estimate_difficulty(model, folder, settings, samples=samples, **rows, **names, progress=advance)
    lines = [
        f"Pass rates of {result['n']} questions, {samples} completions each: mean {result['mean']:.1f} %, cut off "
        f"{result['cut_off']:.1f} %, skipped for missing images {result['n_missing']}",
        *(f"{name:<14} {count:>6}" for name, count in result["histogram"].items()),
        f"File: {result['file']}",
    ]
    print_result(result, [*lines, RESEARCH_USE], as_json=as_json)
