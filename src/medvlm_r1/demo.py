"""The paper's experiment on PhantomVQA: zero-shot, SFT and GRPO, with tables and a report. Re-run to resume."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from medvlm_r1.console import TrainingProgress, print_uncropped, progress_bar
from medvlm_r1.data.sample import Sample
from medvlm_r1.disk import atomic_write
from medvlm_r1.errors import RESEARCH_USE, UserError, require_extra
from medvlm_r1.recipes import recipe

BASE = "phantom-base"
DOMAINS = {"MRI": "in domain", "CT": "out of domain", "X-ray": "out of domain"}
STAGES = {"zero_shot": "Zero-shot", "sft": "SFT", "grpo_no_think": "GRPO without thinking", "grpo": "GRPO"}
ROWS = {"guess": "Guess", "option_prior": "Option prior (text only)", **STAGES}
TEMPLATES = {"zero_shot": "medvlm-r1", "sft": "answer-only", "grpo_no_think": "no-think", "grpo": "medvlm-r1"}
RECIPES = {"sft": "phantom-sft.yaml", "grpo_no_think": "phantom-no-think.yaml", "grpo": "phantom.yaml"}
SETS = {"published": "As published", "clean": "Clean"}
"""Test sets: with giveaway options as strong as in the published sets, and without."""
AUDITED = ("sft", "grpo")
_MISLED = (("published", "CT"), ("published", "X-ray"), ("clean", "MRI"), ("clean", "CT"), ("clean", "X-ray"))
"""Columns of the table of questions whose favored option is wrong. MRI as published has hardly any."""

# Accuracies of the paper (arXiv 2502.19634, abstract): means over the three modalities, in percent.
PAPER_MEANS = {"zero_shot": 55.11, "grpo": 78.22}

# Enough for every question of the demo; the results count answers that are cut off.
MAX_NEW_TOKENS = 80

SUMMARY = f"""{RESEARCH_USE}

What this shows: GRPO teaches a vision-language model to reason before it answers. The rewards are for the correct
letter and the required format only; there is no written reasoning. Training uses 600 MRI questions. The test includes
CT and X-ray, which the model was not trained on. The images are PhantomVQA: computed phantoms with known ground truth,
not patients.

The training questions and the test "as published" give their answers away in the option texts, as often as the
questions that the paper used. Another modality gives other answers away. The clean test has no giveaways. A model that
learned the option texts is correct on MRI as published, and nowhere else.

What it does not show: this is not a reproduction of the paper's clinical results, which need Qwen2-VL-2B, the public
data and a GPU. We put both paths into the base model: it can answer blindly by the letter alone, or look and reason,
and it uses neither as well as it could. The demo shows the method on a benchmark of our own. It is not evidence about
any model on real patients.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sizes:
    """Number of questions per modality in each data folder and in the audit, and overrides of recipe fields."""

    train: int = 600
    test: int = 300
    held_out: int = 24
    audit: int = 100
    overrides: tuple[str, ...] = ()


def run_demo(out: Path, *, seed: int = 0, sizes: Sizes = Sizes()) -> dict[str, Any]:
    """Run the stages of the demo that are not finished.

    Args:
        out: Folder for `data/`, one folder per stage, `results.json` and `report.html`.
        seed: Seed of the training runs. It does not change the benchmark.
        sizes: Number of questions per modality, and overrides of recipe fields.

    Returns:
        The content of `results.json`.

    Raises:
        UserError: The folder contains a demo with another seed, or one of its files is damaged.
        KeyboardInterrupt: The user pressed Ctrl-C. Finished work is kept.
    """
    # Check this first: the images take a minute, which a later error would waste.
    require_extra("train")
    out.mkdir(parents=True, exist_ok=True)
    clock, owner = out / "seconds.json", out / "demo.json"
    seconds = _read(clock) if clock.exists() else {}
    if not owner.exists():
        atomic_write(owner, json.dumps({"seed": seed}))
    if (previous := _read(owner).get("seed")) != seed:
        raise UserError(
            f"{out} has a demo with seed {previous}, wanted seed {seed}; give another --out or delete the folder."
        )

    @contextmanager
    def timed(stage: str) -> Iterator[None]:
        """Measure the time of a stage, and add it to the time of earlier, interrupted runs."""
        started = time.monotonic()
        try:
            yield
        finally:
            seconds[stage] = round(seconds.get(stage, 0.0) + time.monotonic() - started, 2)
            atomic_write(clock, json.dumps(seconds))

    with timed("data"):
        _data(out, sizes)
    models = {"zero_shot": BASE}
    for stage in STAGES:
        if stage in RECIPES:
            with timed(stage):
                models[stage] = str(_train(stage, out, seed, sizes))
        with timed(stage if stage == "zero_shot" else f"{stage}_evaluation"):
            for name in SETS:
                _evaluate(models[stage], out, stage, name)
    audits = {}
    for stage in AUDITED:
        with timed("audit"):
            audits[stage] = _audit(models[stage], out, stage, sizes)
    rows = _text_rows(out)
    for stage in STAGES:
        published, clean = (
            _read(out / "eval" / stage / name / "results.json") | {"favored_wrong": favored_wrong(out, stage, name)}
            for name in SETS
        )
        rows[stage] = {**published, "clean": clean}
    results = {"research_use": RESEARCH_USE, **rows, "audit": audits, "seconds": seconds}
    with timed("report"):
        _report(out, results)
    atomic_write(out / "results.json", json.dumps(results, indent=1))
    return results


def _read(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{file} is damaged ({error}); delete it and re-run the command.") from error
    if not isinstance(content, dict):
        raise UserError(f"{file} contains {content!r}, wanted a JSON object; delete it and re-run the command.")
    return content


def _data(out: Path, sizes: Sizes) -> None:
    from medvlm_r1.phantom.benchmark import write_benchmark

    # The held-out questions are evaluated during training. They share no subject with the test sets.
    folders: dict[str, dict[str, Any]] = {
        "train": {"split": "train", "n": sizes.train, "giveaway": True},
        "published": {"split": "test", "n": sizes.test, "giveaway": True},
        "clean": {"split": "test", "n": sizes.test},
        "held-out": {"split": "test", "n": sizes.held_out, "seed": 1},
    }
    for name, settings in folders.items():
        folder = out / "data" / name
        if not (folder / "samples.jsonl").exists():
            with progress_bar(f"PhantomVQA {name}") as advance:
                write_benchmark(folder, progress=advance, **settings)


def _evaluate(model: str, out: Path, stage: str, data: str) -> None:
    from medvlm_r1.evaluation.run import evaluate

    run = out / "eval" / stage / data
    if (run / "results.json").exists():
        return
    with progress_bar(f"{STAGES[stage]}: answers, {data}") as advance:
        settings: dict[str, Any] = {"template": TEMPLATES[stage], "max_new_tokens": MAX_NEW_TOKENS, "batch_size": 64}
        evaluate(model, out / "data" / data, run, progress=advance, **settings)


def _train(stage: str, out: Path, seed: int, sizes: Sizes) -> Path:
    from medvlm_r1.training.config import load_config

    overrides = [f"data.train={out / 'data' / 'train'}", f"out={out / stage}", f"seed={seed}"]
    if stage == "grpo":
        overrides.append("evaluate_every=25")
    config = load_config(recipe(RECIPES[stage]), [*overrides, *sizes.overrides])
    if (out / stage / "model").is_dir():
        return out / stage / "model"
    with progress_bar(f"{STAGES[stage]}: training") as advance:
        progress = TrainingProgress(advance)
        if stage == "sft":
            from medvlm_r1.training.sft import train_sft

            return train_sft(config, progress=progress)
        from medvlm_r1.evaluation.watch import HeldOut
        from medvlm_r1.training.grpo import train_grpo

        watch = HeldOut(out / "data" / "held-out", max_new_tokens=MAX_NEW_TOKENS, batch_size=64)
        return train_grpo(config, progress=progress, evaluate=watch if stage == "grpo" else None)


def _audit(model: str, out: Path, stage: str, sizes: Sizes) -> dict[str, Any]:
    """Audit whether a model looks at the image, on the first questions as published, which are MRI."""
    from medvlm_r1.audit.runner import audit_model

    run = out / "audit" / stage
    if (run / "audit.json").exists():
        return _read(run / "audit.json")
    with progress_bar(f"{STAGES[stage]}: audit") as advance:
        return audit_model(
            model,
            out / "data" / "published",
            run,
            probes=("image",),
            limit=sizes.audit,
            max_new_tokens=MAX_NEW_TOKENS,
            template=TEMPLATES[stage],
            evaluation=out / "eval" / stage / "published",
            progress=advance,
        )


def _text_rows(out: Path) -> dict[str, Any]:
    """Accuracies without any model: an even guess, and the option prior of the training questions."""
    from medvlm_r1.data.folder import read_folder
    from medvlm_r1.data.option_prior import option_prior

    train = read_folder(out / "data" / "train")
    rows: dict[str, Any] = {"guess": {}, "option_prior": {}}
    for name in SETS:
        samples = read_folder(out / "data" / name)
        credits = {
            "guess": [1 / len(sample.options) for sample in samples],
            "option_prior": option_prior(train, samples),
        }
        for row, values in credits.items():
            figures = {"accuracy": _accuracy(samples, values, known=row == "guess")}
            rows[row] |= figures if name == "published" else {name: figures}
    return rows


def favored_wrong(out: Path, stage: str, data: str) -> dict[str, Any]:
    """Compute the share of correct answers where the training questions favor an option that is wrong.

    Args:
        out: Folder of a demo.
        stage: Name of the evaluated model, as in `eval/`.
        data: Name of the test set, one of `SETS`.

    Returns:
        For each modality, `{n, correct, percent, ci95}` of the questions whose options with the highest rate in
        training (`favored_options`) are all wrong, if that rate is above chance.
    """
    from medvlm_r1.data.folder import read_folder
    from medvlm_r1.data.option_prior import favored_options
    from medvlm_r1.evaluation.score import share
    from medvlm_r1.evaluation.store import read_answers

    graded = [answer.graded() for answer in read_answers(out / "eval" / stage / data)]
    choices = favored_options(read_folder(out / "data" / "train"), [g.sample for g in graded])
    misled = [
        g for g, (favored, above) in zip(graded, choices, strict=True) if above and g.sample.answer not in favored
    ]
    return {modality: share([g.correct for g in misled if g.sample.modality == modality]) for modality in DOMAINS}


def _accuracy(samples: Sequence[Sample], credits: Sequence[float], *, known: bool) -> dict[str, Any]:
    from medvlm_r1.audit.dataset.audit import figure

    accuracy: dict[str, Any] = {}
    for modality in DOMAINS:
        values = [credit for sample, credit in zip(samples, credits, strict=True) if sample.modality == modality]
        cell = figure(values, range(len(values)), known=known)
        accuracy[modality] = {
            "n": len(values),
            "correct": sum(values),
            "percent": cell.percent,
            "ci95": list(cell.ci95),
        }
    accuracy["mean"] = sum(accuracy[modality]["percent"] for modality in DOMAINS) / len(DOMAINS)
    return accuracy


def figures_on(results: Mapping[str, Any], row: str, name: str) -> Mapping[str, Any]:
    """The figures of a row of `results.json` on one of `SETS`."""
    figures: Mapping[str, Any] = results[row] if name == "published" else results[row][name]
    return figures


def _cells(results: Mapping[str, Any], row: str, name: str) -> list[Mapping[str, Any]]:
    return [figures_on(results, row, name)["accuracy"][modality] for modality in DOMAINS]


def lead(results: Mapping[str, Any]) -> str:
    """Two sentences on the models that were audited: how often they are correct on MRI, and whether they look."""
    correct = {row: _cells(results, row, "published")[0]["percent"] for row in AUDITED}
    swapped = {row: results["audit"][row]["probes"]["image"]["measures"]["accuracy_shuffled"] for row in AUDITED}
    n = swapped["grpo"]["n"]
    return (
        f"On MRI questions as published, SFT is correct on {correct['sft']:.1f} % and GRPO on {correct['grpo']:.1f} %. "
        f"When {n} of these questions are shown with the image of another patient, SFT is still correct on "
        f"{100 * swapped['sft']['value']:.0f} % and GRPO on {100 * swapped['grpo']['value']:.0f} %."
    )


def _report(out: Path, results: Mapping[str, Any]) -> None:
    from medvlm_r1.evaluation.compare import compare
    from medvlm_r1.report import load_run, render_report
    from medvlm_r1.report.html import share_cell
    from medvlm_r1.report.page import Cell, Row, percent, text_table
    from medvlm_r1.report.page import Table as PageTable

    runs = {
        f"{STAGES[stage]}, {label[0].lower()}{label[1:]}": load_run(out / "eval" / stage / name)
        for name, label in SETS.items()
        for stage in STAGES
    }
    runs["GRPO, as published"] = load_run(out / "eval" / "grpo" / "published", training=out / "grpo")
    gain = compare(out / "eval" / "zero_shot" / "clean", out / "eval" / "grpo" / "clean")["all"]
    low, high = gain["ci95"]
    names = {"zero_shot": "Qwen2-VL-2B, zero-shot", "grpo": "MedVLM-R1"}
    rows = []
    for row, label in ROWS.items():
        cells = []
        for name in SETS:
            cells += [share_cell(cell, None) for cell in _cells(results, row, name)]
            cells.append(Cell(percent(figures_on(results, row, name)["accuracy"]["mean"])))
        rows.append(Row(label, cells))
    columns = [(f"{label}: {m}", small) for label in SETS.values() for m, small in [*DOMAINS.items(), ("mean", "")]]
    measures = {row: results["audit"][row]["probes"]["image"]["measures"] for row in AUDITED}
    looks = text_table(
        ("Model", "Own image", "Image of another patient", "Gray image", "Does it look at the image?"),
        [
            (
                STAGES[row],
                *(f"{100 * measures[row][f'accuracy_{name}']['value']:.1f}" for name in ("real", "shuffled", "blank")),
                results["audit"][row]["verdicts"]["looks"],
            )
            for row in AUDITED
        ],
        sorts=False,
    )
    misled = [
        Row(
            STAGES[stage],
            [share_cell(figures_on(results, stage, name)["favored_wrong"][m], None) for name, m in _MISLED],
        )
        for stage in STAGES
    ]
    misled_columns = [(f"{SETS[name]}: {modality}", DOMAINS[modality]) for name, modality in _MISLED]
    render_report(
        runs,
        out / "report.html",
        title="MedVLM-R1 demo on PhantomVQA",
        summary=f"{lead(results)}\n\n{SUMMARY}",
        tables=(
            ("All rows", "Accuracy in percent, with the 95 % interval and the counts.", PageTable("", columns, rows)),
            (
                "Two models side by side",
                f"Accuracy in percent on {measures['grpo']['accuracy_real']['n']} MRI questions as published, and the"
                " verdict of the audit.",
                looks,
            ),
            (
                "Where the favored option is wrong",
                "Accuracy in percent on the questions that offer an option which was correct more often than chance in"
                " training, and which is wrong here. A model that learned the option texts falls here first. The mean"
                " over all questions hides this, since such a model gains where the favored option is correct.",
                PageTable("", misled_columns, misled),
            ),
        ),
        notes=(
            "Written by `medvlm-r1 demo`. Each stage has its own results.json.",
            f"GRPO compared with zero-shot on the same {gain['n']} clean items: {gain['difference']:+.1f} points, 95 %"
            f" interval [{low:.1f}, {high:.1f}] (Bonett-Price); exact {gain['test']} p = {gain['p']:.1e}.",
        ),
        domains=DOMAINS,
        paper={names[stage]: {"Mean": mean} for stage, mean in PAPER_MEANS.items()},
        items=12,
    )


def print_tables(results: Mapping[str, Any], console: Console) -> None:
    """Print the accuracies by row and modality for both test sets, and what the audit found."""
    for name, label in SETS.items():
        table = Table(title=f"{label}: percent correct, with 95 % intervals", show_lines=True, caption=RESEARCH_USE)
        for column in ("", "MRI\n(trained)", "CT", "X-ray", "mean"):
            table.add_column(column, justify="left" if not column else "right")
        for row, text in ROWS.items():
            cells = [
                f"{c['percent']:.1f}\n[{c['ci95'][0]:.1f}, {c['ci95'][1]:.1f}]" for c in _cells(results, row, name)
            ]
            table.add_row(text, *cells, f"{figures_on(results, row, name)['accuracy']['mean']:.1f}")
        print_uncropped(console, table)
    console.print(lead(results))
    verdicts = ", ".join(f"{STAGES[row]} {results['audit'][row]['verdicts']['looks']}" for row in AUDITED)
    console.print(f"Does the model look at the image? {verdicts}.")
    console.print(
        "The paper's means (MedVLM-R1, arXiv 2502.19634): "
        + ", ".join(f"{STAGES[stage]} {mean:.2f}" for stage, mean in PAPER_MEANS.items())
        + ". They are of another model, Qwen2-VL-2B, on clinical images; this demo is not a reproduction of them."
    )
    times = ", ".join(f"{stage} {seconds:.0f} s" for stage, seconds in results["seconds"].items())
    console.print(f"Time: {times}.")
