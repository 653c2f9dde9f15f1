"""The `eval` and `compare` commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from medvlm_r1.cli.options import Data, Dtype, Json, Limit, Model, NewTokens, Out, SkipMissing, Template, print_result
from medvlm_r1.errors import RESEARCH_USE
from medvlm_r1.stopping import stop_on_sigterm


def eval_command(
    model: Model,
    *,
    data: Data,
    out: Out,
    skip_missing: SkipMissing = False,
    limit: Limit = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Questions per batch; for a server, parallel requests.")] = 32,
    max_new_tokens: NewTokens = 512,
    template: Template = "medvlm-r1",
    dtype: Dtype = "auto",
    synonyms: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Your synonyms for open answers: a group of terms per line, separated by tabs."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Answer every question of a data folder with greedy decoding, and score the answers. Re-run to resume.

    Example: medvlm-r1 eval phantom-base --data data/phantom/test --out runs/zero-shot
    """
    from medvlm_r1.console import accuracy_lines, progress_bar

    with stop_on_sigterm(out), progress_bar("Answers") as advance:
        from medvlm_r1.evaluation.run import evaluate
        from medvlm_r1.evaluation.score import box_lines

        results = evaluate(
            model,
            data,
            out,
            skip_missing=skip_missing,
            limit=limit,
            batch_size=batch_size,
            max_new_tokens=max_new_tokens,
            template=template,
            dtype=dtype,
            synonyms=synonyms,
            progress=advance,
        )
    lines = [*accuracy_lines(results), *box_lines(results), f"Results: {out / 'results.json'}", RESEARCH_USE]
    print_result(results, lines, as_json=as_json)


def compare_command(
    run_a: Annotated[Path, typer.Argument(metavar="RUN_A", help="Run folder of an evaluation.")],
    run_b: Annotated[Path, typer.Argument(metavar="RUN_B", help="Run folder of another evaluation on the same data.")],
    as_json: Json = False,
) -> None:
    """Compare two evaluations item by item: difference with 95 % interval, and an exact test, clustered by subject.

    Settings that differ (template, token limit, image size) are listed first. Runs whose images, questions or options
    differ under the same ids are refused.

    Example: medvlm-r1 compare runs/zero-shot runs/grpo
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
