"""`python -m benchmarks.audit`: the audit of a model tried on models whose faults are known.

Every model is asked about the same PhantomVQA items, with the probes of `medvlm-r1 audit model`. What has to come out
is known beforehand: a model with a fault fails on the verdict of that fault, and the oracle passes all of them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from PIL import Image

from benchmarks.command import run as run_command
from benchmarks.known_models import AlwaysB, AnswersFirst, Eyes, FollowsCues, IgnoresImage, Oracle
from benchmarks.trained_models import text_only_model
from medvlm_r1.audit.backends import open_audit_backend
from medvlm_r1.audit.collect import Answers, audited, collect_responses, even_parts, probe_inputs
from medvlm_r1.audit.probe import ProbeInput
from medvlm_r1.audit.registry import PROBES, QUESTIONS
from medvlm_r1.audit.runner import ITEMS_AT_ONCE, judged
from medvlm_r1.audit.variant import AuditBackend
from medvlm_r1.cli.options import Json, folder_to_write
from medvlm_r1.errors import UsageError
from medvlm_r1.phantom.benchmark import DEFAULT_N, draw_questions, to_sample
from medvlm_r1.phantom.scene import MODALITIES, render

TEMPLATE = "medvlm-r1"
TRAINED = "a-trained"
_BATCH = 30
"""Items a scripted model is asked at once: their variants' images are in memory together, about 1 MB an item."""


@dataclass(frozen=True, slots=True)
class Known:
    """A scripted model.

    Attributes:
        kind: Its class, made from `Eyes`.
        about: What it does, in a few words.
        fails: The verdict that must be "fail"; None for the one that must pass all.
    """

    kind: type[Oracle]
    about: str
    fails: str | None


KNOWN: dict[str, Known] = {
    "a": Known(IgnoresImage, "ignores the image", "looks"),
    "b": Known(AnswersFirst, "answers first, makes up the reasoning", "reasoning"),
    "c": Known(AlwaysB, "always says B", "order"),
    "d": Known(FollowsCues, "follows cues", "reasoning"),
    "f": Known(Oracle, "tells the truth", None),
}


def bench_audit(
    *,
    items: int = 300,
    seeds: int = 5,
    shortcut: bool = False,
    models: Mapping[str, str] | None = None,
    trained: Path | None = None,
    batch_size: int = ITEMS_AT_ONCE,
    max_new_tokens: int = 512,
    progress: Callable[[int, int, str], None] | None = None,
) -> dict[str, Any]:
    """Audits all known models, and others beside them.

    Args:
        items: Questions a seed, divided evenly between the modalities; at least 3.
        seeds: Sets of questions, at least 1; set s is the beginning of PhantomVQA's test split at seed s.
        shortcut: Take questions whose options give the answers away: model a is then nearly always right.
        models: Checkpoints by name, each audited like the rest; nothing is expected of them.
        trained: Folder of a checkpoint that was trained to answer by the texts alone (`text_only_model`), which must
            fail like model a; trained there first where it is not. None leaves it out.
        batch_size: Items that a checkpoint is asked at once.
        max_new_tokens: Where a checkpoint's completions are cut off.
        progress: Called with (items asked, items in all, which model and seed).

    Returns:
        `items`, `seeds`, `shortcut`, `models.<name>` with `about`, `fails` (the verdict that must), `verdicts` (per
        seed, by question), `sentences` and `measures` (per seed, by probe), `wrong` (what did not come out as known, in
        words) and `separated`.

    Raises:
        UsageError: Too few items or seeds, or a name that a known model has.
        UserError: A checkpoint cannot be used.
    """
    models = dict(models or {})
    if items < len(MODALITIES) or seeds < 1:
        raise UsageError(f"--items is {items}, --seeds {seeds}; wanted at least {len(MODALITIES)} items and 1 seed")
    if taken := sorted({*KNOWN, *([TRAINED] if trained else [])} & models.keys()):
        raise UsageError(f"the name {taken[0]!r} is that of a known model; give another")
    if trained is not None:
        model = text_only_model(trained, progress=progress and partial(_training, progress))
        models[TRAINED] = str(model)
    respondents = {
        name: open_audit_backend(folder, TEMPLATE, max_new_tokens, batch_size) for name, folder in models.items()
    }
    found: dict[str, Any] = {
        name: {"about": known.about, "fails": known.fails, "verdicts": [], "sentences": [], "measures": []}
        for name, known in KNOWN.items()
    }
    found |= {
        name: {"about": folder, "fails": None, "verdicts": [], "sentences": [], "measures": []}
        for name, folder in models.items()
    }
    if trained is not None:
        found[TRAINED] |= {"about": "was trained to ignore the image", "fails": KNOWN["a"].fails}
    total, done = seeds * len(found) * items, 0
    for seed in range(seeds):
        asked, eyes = phantom_items(items, seed, shortcut=shortcut)
        everyone: dict[str, AuditBackend] = {name: known.kind(eyes) for name, known in KNOWN.items()}
        for name, backend in (everyone | respondents).items():
            answers: dict[str, Answers] = {}
            for part in even_parts(len(asked), batch_size if name in models else _BATCH):
                if progress is not None:
                    progress(done, total, f"model {name}, seed {seed}")
                batch = [asked[place] for place in part]
                answers |= collect_responses(batch, PROBES.values(), backend)
                done += len(batch)
            record = judged(audited([item.sample for item in asked], answers), PROBES)
            found[name]["verdicts"].append(record["verdicts"])
            found[name]["sentences"].append({probe: part["sentence"] for probe, part in record["probes"].items()})
            found[name]["measures"].append({probe: part["measures"] for probe, part in record["probes"].items()})
    if progress is not None:
        progress(total, total, "")
    wrong = unexpected({name: found[name]["verdicts"] for name in (*KNOWN, TRAINED) if name in found})
    return {
        "items": items,
        "seeds": seeds,
        "shortcut": shortcut,
        "models": found,
        "wrong": wrong,
        "separated": not wrong,
    }


def phantom_items(items: int, seed: int, *, shortcut: bool = False) -> tuple[list[ProbeInput], Eyes]:
    """The first of PhantomVQA's test questions as the probes take them, and eyes that know their images."""
    samples, images = [], []
    for place, modality in enumerate(MODALITIES):
        n = (items + len(MODALITIES) - 1 - place) // len(MODALITIES)
        # A set of the usual size is balanced with few draws, and its questions are those of a data folder.
        drawn = draw_questions("test", modality, max(n, DEFAULT_N["test"]), seed, shortcut=shortcut)
        for index, question in enumerate(drawn[:n]):
            samples.append(to_sample(question, "test", index, shortcut=shortcut))
            images.append(Image.fromarray(render(question.scene)).convert("RGB"))
    return probe_inputs(samples, [(image,) for image in images], TEMPLATE), Eyes(samples, images)


def _training(progress: Callable[[int, int, str], None], done: int, total: int) -> None:
    progress(done, total, f"training {TRAINED}")


def unexpected(verdicts: Mapping[str, Sequence[Mapping[str, str]]]) -> list[str]:
    """What did not come out as known.

    Args:
        verdicts: By known model, per seed, by question.
    """
    wrong = []
    for name, runs in verdicts.items():
        fails = KNOWN["a" if name == TRAINED else name].fails
        for seed, run in enumerate(runs):
            for question in QUESTIONS if fails is None else (fails,):
                wanted = "pass" if fails is None else "fail"
                if run[question] != wanted:
                    wrong.append(f"model {name}, seed {seed}: {question} is {run[question]!r}, wanted {wanted!r}")
    return wrong


def verdict_cell(part: Mapping[str, Any], question: str) -> str:
    """A model's verdicts on a question over the seeds, with counts where they differ; a star marks its own fault."""
    counts = Counter(run[question] for run in part["verdicts"]).most_common()
    star = "*" if question == part["fails"] else ""
    return ", ".join(f"{level} {n}" if len(counts) > 1 else level for level, n in counts) + star


def audit_lines(found: Mapping[str, Any]) -> list[str]:
    """The table of verdicts, and whether they separate the models."""
    width = max(len(f"{name}  {part['about']}") for name, part in found["models"].items()) + 2
    lines = [
        f"{found['items']} PhantomVQA questions a seed{' (with a shortcut)' if found['shortcut'] else ''}, "
        f"{found['seeds']} seeds",
        f"{'model':<{width}}" + "".join(f"{question:<18}" for question in QUESTIONS),
    ]
    for name, part in found["models"].items():
        cells = [verdict_cell(part, question) for question in QUESTIONS]
        lines.append(f"{name + '  ' + part['about']:<{width}}" + "".join(f"{cell:<18}" for cell in cells).rstrip())
    lines.append("*: the model's own fault")
    lines += found["wrong"]
    lines.append("separated" if found["separated"] else "NOT separated")
    return lines


def main(
    items: Annotated[
        int, typer.Option(min=3, help="PhantomVQA questions a seed, divided evenly between the modalities.")
    ] = 300,
    seeds: Annotated[int, typer.Option(min=1, help="Sets of questions.")] = 5,
    shortcut: Annotated[
        bool, typer.Option("--shortcut", help="Questions whose options give the answers away.")
    ] = False,
    model: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=FOLDER", help="A checkpoint to audit beside them; may be given several times."),
    ] = None,
    trained: Annotated[
        Path | None,
        typer.Option(
            callback=folder_to_write,
            help="Train a model to ignore the image, in this folder, and audit it too; kept for the next time.",
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """The audit on models whose faults are known: do its verdicts tell them from one that tells the truth?

    Example: python -m benchmarks.audit --items 60 --seeds 1 --model base=phantom-base
    """
    from medvlm_r1.console import progress_bar
    from medvlm_r1.errors import RESEARCH_USE, UsageError

    models: dict[str, str] = {}
    for given in model or ():
        name, equals, folder = given.partition("=")
        if not (name and equals and folder) or name in models:
            raise UsageError(f"--model {given!r}: wanted NAME=FOLDER, each name once")
        models[name] = folder
    with progress_bar("Items") as advance:
        found = bench_audit(
            items=items, seeds=seeds, shortcut=shortcut, models=models, trained=trained, progress=advance
        )
    print(json.dumps(found) if as_json else "\n".join([*audit_lines(found), RESEARCH_USE]))


if __name__ == "__main__":
    run_command(main, "audit")
