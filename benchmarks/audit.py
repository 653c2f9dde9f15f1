"""`python -m benchmarks.audit`: validate the model audit on models whose faults are known.

Every model answers the same PhantomVQA items, with the probes of `medvlm-r1 audit model`. The expected verdicts are
known: a model with a fault fails on the verdict of that fault, and the oracle passes all of them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image

from benchmarks.cold_start import cold_start
from benchmarks.command import run as run_command
from benchmarks.grounded import exchange, shuffled
from benchmarks.known_models import AlwaysB, AnswersFirst, Eyes, FollowsCues, IgnoresImage, Oracle, RestatesChoice
from medvlm_r1.audit.backends import open_audit_backend
from medvlm_r1.audit.collect import Answers, audited, collect_responses, even_parts, partners, probe_input
from medvlm_r1.audit.probe import ProbeInput
from medvlm_r1.audit.registry import PROBES, QUESTIONS
from medvlm_r1.audit.runner import ITEMS_AT_ONCE, judged
from medvlm_r1.audit.variant import AuditBackend
from medvlm_r1.cli.options import Json, folder_to_write, print_result
from medvlm_r1.data.sample import Sample
from medvlm_r1.errors import RESEARCH_USE, UsageError
from medvlm_r1.phantom.benchmark import DEFAULT_N, draw_questions, to_sample, write_benchmark
from medvlm_r1.phantom.scene import MODALITIES, render

TEMPLATE = "medvlm-r1"
JUDGED = [question for question in QUESTIONS if question != "points"]
"""Verdicts that are validated here. The template does not ask for boxes, so `benchmarks.pointing` validates the verdict
on pointing."""
TRAINED = "a-trained"
_BATCH = 30
"""Items per batch of a scripted model: the images of their variants are in memory together, about 1 MB per item."""


@dataclass(frozen=True, slots=True)
class Known:
    """A scripted model.

    Attributes:
        kind: Class of the model. Its constructor takes `Eyes`.
        about: Its behavior in a few words.
        fails: The verdict that must be "fail"; None for the model that must pass all.
    """

    kind: type[Oracle]
    about: str
    fails: str | None


KNOWN: dict[str, Known] = {
    "a": Known(IgnoresImage, "ignores the image", "looks"),
    "b": Known(AnswersFirst, "answers first, makes up the reasoning", "reasoning"),
    "c": Known(AlwaysB, "always says B", "order"),
    "d": Known(FollowsCues, "follows cues", "reasoning"),
    "g": Known(RestatesChoice, "answers by its last sentence alone", "reasoning"),
    "f": Known(Oracle, "tells the truth", None),
}


def bench_audit(
    *,
    items: int = 300,
    seeds: int = 5,
    giveaway: bool = False,
    models: Mapping[str, str] | None = None,
    trained: Path | None = None,
    batch_size: int = ITEMS_AT_ONCE,
    max_new_tokens: int = 512,
    progress: Callable[[int, int, str], None] = lambda *_: None,
) -> dict[str, Any]:
    """Audit all scripted models with known faults, and optionally checkpoints, on the same items.

    Args:
        items: Questions per seed, divided evenly between the modalities; at least 3.
        seeds: Number of question sets, at least 1; set s is the beginning of PhantomVQA's test split at seed s.
        giveaway: Use questions whose options give the answers away: model a is then nearly always correct.
        models: Checkpoints by name, without expected verdicts.
        trained: Folder of a checkpoint that is trained to answer from the texts alone (`text_only_model`). It is
            trained if it is missing, and must fail like model a. None skips it.
        batch_size: Items per batch of a checkpoint.
        max_new_tokens: Maximum tokens per completion of a checkpoint.
        progress: Called with (items done, all items, model and seed).

    Returns:
        `items`, `seeds`, `giveaway`, `wrong` (unexpected verdicts, in words) and `separated` (whether there are none).
        Also `models.<name>`:

        * `about`, `fails`: the model's behavior and its expected failure;
        * `verdicts`: for each seed, the verdict on each question;
        * `sentences`, `measures`: for each seed, those of each probe.

    Raises:
        UsageError: Too few items or seeds, or a name of a known model.
        UserError: A checkpoint cannot be used.
    """
    models = dict(models or {})
    if items < len(MODALITIES) or seeds < 1:
        raise UsageError(f"--items is {items}, --seeds {seeds}; wanted at least {len(MODALITIES)} items and 1 seed")
    if taken := sorted({*KNOWN, *([TRAINED] if trained else [])} & models.keys()):
        raise UsageError(f"the name {taken[0]!r} is that of a known model; give another")
    results: dict[str, Any] = {name: {"about": known.about, "fails": known.fails} for name, known in KNOWN.items()}
    results |= {name: {"about": folder, "fails": None} for name, folder in models.items()}
    if trained is not None:
        note = f"training {TRAINED}"
        models[TRAINED] = str(text_only_model(trained, progress=lambda done, total: progress(done, total, note)))
        results[TRAINED] = {"about": "was trained to ignore the image", "fails": KNOWN["a"].fails}
    for result in results.values():
        result |= {"verdicts": [], "sentences": [], "measures": []}
    checkpoints = {
        name: open_audit_backend(folder, TEMPLATE, max_new_tokens, batch_size) for name, folder in models.items()
    }
    total, done = seeds * len(results) * items, 0
    for seed in range(seeds):
        inputs, eyes = phantom_items(items, seed, giveaway=giveaway)
        scripted: dict[str, AuditBackend] = {name: known.kind(eyes) for name, known in KNOWN.items()}
        for name, backend in (scripted | checkpoints).items():
            answers: dict[str, Answers] = {}
            for rows in even_parts(len(inputs), batch_size if name in models else _BATCH):
                progress(done, total, f"model {name}, seed {seed}")
                answers |= collect_responses([inputs[row] for row in rows], PROBES.values(), backend)
                done += len(rows)
            record = judged(audited([item.sample for item in inputs], answers), PROBES)
            results[name]["verdicts"].append(record["verdicts"])
            for key in ("sentence", "measures"):
                values = {probe: result[key] for probe, result in record["probes"].items()}
                results[name]["sentences" if key == "sentence" else key].append(values)
    progress(total, total, "")
    wrong = unexpected({name: results[name]["verdicts"] for name in (*KNOWN, TRAINED) if name in results})
    settings = {"items": items, "seeds": seeds, "giveaway": giveaway}
    return {**settings, "models": results, "wrong": wrong, "separated": not wrong}


def phantom_items(items: int, seed: int, *, giveaway: bool = False) -> tuple[list[ProbeInput], Eyes]:
    """Return the first test questions of PhantomVQA as probe inputs, and `Eyes` that recognize their images."""
    samples, images = [], []
    for index, modality in enumerate(MODALITIES):
        n = (items + len(MODALITIES) - 1 - index) // len(MODALITIES)
        # A set of the usual size has the questions of a data folder.
        questions = draw_questions("test", modality, max(n, DEFAULT_N["test"]), seed, giveaway=giveaway)
        for number, question in enumerate(questions[:n]):
            samples.append(to_sample(question, "test", number, giveaway=giveaway))
            images.append(Image.fromarray(render(question.scene)).convert("RGB"))
    return probe_inputs(samples, images, TEMPLATE), Eyes(samples, images)


def probe_inputs(samples: Sequence[Sample], images: Sequence[Image.Image], template: str) -> list[ProbeInput]:
    """Convert samples to probe inputs, each with its image and the image of its partner."""
    return [
        probe_input(sample, [image], [] if partner is None else [images[partner]], template)
        for sample, image, partner in zip(samples, images, partners(samples), strict=True)
    ]


def text_only_model(
    out: Path, *, n: int = 900, epochs: float = 6.0, progress: Callable[[int, int], None] | None = None
) -> Path:
    """Train a model that ignores images, if its checkpoint is missing. Return the checkpoint's folder.

    The embedded base is tuned on PhantomVQA questions whose options give the answers away. Each has the image of
    another item, so only the texts can be learned.

    Args:
        out: Folder of its data and checkpoint.
        n: Training questions, divided evenly between the modalities.
        epochs: Training epochs.
        progress: Called with (images done, all images), then with (steps done, all steps).
    """
    original, mixed = out / "giveaway", out / "giveaway-shuffled"
    if not (original / "samples.jsonl").exists():
        each = n // len(MODALITIES)
        write_benchmark(original, split="train", n=each, modalities=MODALITIES, giveaway=True, progress=progress)
    exchange(original, mixed, shuffled, source="python -m benchmarks.audit; images exchanged")
    return cold_start(mixed, out / "model", seed=0, epochs=epochs, progress=progress)


def unexpected(verdicts: Mapping[str, Sequence[Mapping[str, str]]]) -> list[str]:
    """Unexpected verdicts, in words.

    Args:
        verdicts: By known model, per seed, by question.
    """
    wrong = []
    for name, runs in verdicts.items():
        fails = KNOWN["a" if name == TRAINED else name].fails
        for seed, run in enumerate(runs):
            for question in JUDGED if fails is None else (fails,):
                wanted = "pass" if fails is None else "fail"
                if run[question] != wanted:
                    wrong.append(f"model {name}, seed {seed}: {question} is {run[question]!r}, wanted {wanted!r}")
    return wrong


def verdict_cell(model: Mapping[str, Any], question: str) -> str:
    """Format a model's verdicts over the seeds, with counts if they differ. A star marks its own fault."""
    counts = Counter(run[question] for run in model["verdicts"]).most_common()
    star = "*" if question == model["fails"] else ""
    return ", ".join(f"{level} {n}" if len(counts) > 1 else level for level, n in counts) + star


def audit_lines(results: Mapping[str, Any]) -> list[str]:
    """Format the verdicts as a table, and state whether they separate the models."""
    rows = {f"{name}  {model['about']}": model for name, model in results["models"].items()}
    width = max(map(len, rows)) + 2
    lines = [
        f"{results['items']} PhantomVQA questions per seed{' (with giveaway options)' if results['giveaway'] else ''}, "
        f"{results['seeds']} seeds",
        f"{'model':<{width}}" + "".join(f"{question:<18}" for question in JUDGED),
    ]
    for name, model in rows.items():
        cells = (f"{verdict_cell(model, question):<18}" for question in JUDGED)
        lines.append(f"{name:<{width}}{''.join(cells)}".rstrip())
    return [
        *lines,
        "*: the model's own fault",
        *results["wrong"],
        "separated" if results["separated"] else "NOT separated",
    ]


def main(
    items: Annotated[
        int, typer.Option(min=3, help="PhantomVQA questions per seed, divided evenly between the modalities.")
    ] = 300,
    seeds: Annotated[int, typer.Option(min=1, help="Number of question sets.")] = 5,
    giveaway: Annotated[
        bool, typer.Option("--giveaway", help="Questions whose options give the answers away.")
    ] = False,
    model: Annotated[
        list[str] | None, typer.Option(metavar="NAME=FOLDER", help="Another checkpoint to audit; repeatable.")
    ] = None,
    trained: Annotated[
        Path | None,
        typer.Option(
            callback=folder_to_write,
            help="Train a model to ignore the image, in this folder, and audit it too; reused by later runs.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Validate the audit: do its verdicts separate models with known faults from one without?

    Example: python -m benchmarks.audit --items 60 --seeds 1 --model base=phantom-base
    """
    from medvlm_r1.console import progress_bar

    models: dict[str, str] = {}
    for text in model or ():
        name, equals, folder = text.partition("=")
        if not (name and equals and folder) or name in models:
            raise UsageError(f"--model {text!r}: wanted NAME=FOLDER, each name once")
        models[name] = folder
    with progress_bar("Items") as advance:
        results = bench_audit(
            items=items, seeds=seeds, giveaway=giveaway, models=models, trained=trained, progress=advance
        )
    print_result(results, [*audit_lines(results), RESEARCH_USE], as_json=as_json)


if __name__ == "__main__":
    run_command(main, "audit")
