"""Evaluate a model on a data folder: generate greedy answers into an append-only store, then compute the metrics.

Repeating the same call resumes. A stored answer is reused only if model, prompt, pixels and settings are unchanged.
Otherwise the run stops with an error, because metrics over the answers of two models would be meaningless.
"""

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL.Image import Image

from medvlm_r1.data.folder import SAMPLES, folder_hash, read_folder
from medvlm_r1.data.sample import Sample
from medvlm_r1.disk import atomic_write
from medvlm_r1.errors import RESEARCH_USE, UsageError, UserError
from medvlm_r1.evaluation import store
from medvlm_r1.evaluation.judge import check_judge, judge_open
from medvlm_r1.evaluation.score import score, score_boxes
from medvlm_r1.models.device import limit_threads
from medvlm_r1.models.generate import GenerationInput, GenerationSettings, Generator, LocalGenerator
from medvlm_r1.models.load import fingerprint, image_fit, load_policy, processor_folder
from medvlm_r1.models.remote import ServerPool, is_server, server_generators
from medvlm_r1.models.shown import box_frame, box_labels
from medvlm_r1.prompts.boxes import BOX_TEMPLATES, Edges
from medvlm_r1.prompts.templates import messages, template_text
from medvlm_r1.rewards.open_questions.words import Synonyms, read_synonyms

Progress = Callable[[int, int], None]
_PROCESSORS = ("processor_config.json", "preprocessor_config.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Setup:
    """Settings shared by all questions of one evaluation; `identity` identifies the model in the answer keys."""

    data_dir: Path
    model: str
    identity: str
    template: str
    settings: GenerationSettings
    synonyms: Synonyms | None
    processor: Any

    def key(self, sample: Sample, images: Sequence[Image]) -> store.AnswerKey:
        return store.answer_key(self.identity, sample, images, self.template, self.settings)

    def boxes(self, text: str, images: Sequence[Image]) -> tuple[Edges, ...]:
        frame = box_frame([image.size for image in images], self.template, self.processor)
        return tuple(frame.boxes(text)) if frame else ()

    def answer(self, rows: Sequence[store.Row], generator: Generator) -> Iterator[list[store.StoredAnswer]]:
        """Yield the answers of one batch as they are completed; answers completed together share the time equally."""
        pairs = [(row[1], store.load_row_images(self.data_dir, row)) for row in rows]
        inputs = [GenerationInput(prompt=messages(s, self.template), images=images) for s, images in pairs]
        began = time.perf_counter()
        for finished in generator.iterate(inputs, self.settings):
            now = time.perf_counter()
            yield [
                store.StoredAnswer(
                    sample=pairs[index][0],
                    generation=generation,
                    seconds=round((now - began) / len(finished), 4),
                    model=self.model,
                    template=self.template,
                    synonyms=self.synonyms,
                    key=self.key(*pairs[index]),
                    stated_boxes=self.boxes(generation.text, pairs[index][1]),
                )
                for index, generation in finished
            ]
            began = now


def evaluate(
    model: str,
    data_dir: Path | str,
    out: Path | str,
    *,
    skip_missing: bool = False,
    limit: int | None = None,
    batch_size: int = 32,
    max_new_tokens: int = 512,
    template: str = "medvlm-r1",
    dtype: str = "auto",
    synonyms: Path | str | None = None,
    judge: str | None = None,
    progress: Progress | None = None,
    generator: Generator | None = None,
) -> dict[str, Any]:
    """Answer every question of a data folder and score the answers.

    Args:
        model: a folder, a hub id, "phantom-base" or "openai:URL#NAME" (a model on a server). If `generator` is given,
            it is only the name stored with the answers, so two generators need different names.
        data_dir: a data folder (`samples.jsonl`, `images/`).
        out: the run folder; each answer is appended to `answers.jsonl`, and `results.json` is written at the end.
        skip_missing: exclude and count rows whose images are missing or cannot be processed, instead of stopping.
        limit: evaluate at most N rows.
        batch_size: number of questions per batch, or of concurrent requests to a server.
        max_new_tokens: token limit of a completion. Longer completions are truncated and counted as `cut_off`.
        template: name of the prompt template.
        dtype: dtype of a local model, as in `load_policy`.
        synonyms: a file with synonyms for open answers (`rewards.open_questions.words`), in addition to those of the
            package. The run folder keeps a copy.
        judge: "openai:URL#NAME", a model that judges the open answers too; see `evaluation.judge`. Its replies are not
            stored.
        progress: called with (answered, total) before the first answer, and after each batch or server reply.
        generator: generates the answers instead of `model`, which is then not loaded.

    Returns:
        The content of `results.json`: the metrics of `score`, and

        * `research_use`: the research-use notice;
        * `model`, `model_fingerprint`: name and identity of the model;
        * `data`, `data_from_run`, `data_sha256`: path of the data, its path relative to the run folder, and its hash;
        * `template`, `max_new_tokens`, `image_size`: settings of the run;
        * `n_missing`: number of excluded rows;
        * `seconds`: total generation time of all answers;
        * `boxes`: see `score_boxes`; only with a box template.

    Raises:
        UsageError: an argument is invalid, or `out` is the data folder or contains another kind of run.
        UserError: the data cannot be read, images are missing, or `out` contains answers of another model or data set.
    """
    data_dir, out = Path(data_dir), Path(out)
    require_positive(limit=limit, batch_size=batch_size)
    if judge is not None:
        check_judge(judge)
    template_text(template)  # raises for an unknown name, before a model is loaded
    refuse_other_folder(data_dir, out, OF_AN_AUDIT)
    everything = read_folder(data_dir)
    selected = list(enumerate(everything, start=1))[:limit]
    local = None if generator is not None or is_server(model) else model
    rows = store.present_rows(data_dir, selected, skip_missing, local)
    samples = [sample for _, sample in rows]
    # Before the answers are generated, because it refuses boxes outside their image.
    fit = image_fit(local) if local is not None and template in BOX_TEMPLATES else None
    labels = box_labels(str(data_dir), samples, template, fit and fit.processor)
    setup = _Setup(
        data_dir=data_dir,
        model=model,
        identity=identify(model, generator, dtype),
        template=template,
        settings=GenerationSettings(max_new_tokens=max_new_tokens),
        synonyms=read_synonyms(synonyms) if synonyms else None,
        processor=fit and fit.processor,
    )
    own_synonyms = Path(synonyms).read_text(encoding="utf-8-sig") if synonyms else None
    if generator is None and is_server(model):
        generator = ServerPool(servers=tuple(server_generators(model, batch_size)))
    report = progress or (lambda answered, total: None)
    with store.AnswerStore(out) as log:
        if own_synonyms is None:
            (out / store.SYNONYMS).unlink(missing_ok=True)
        else:
            atomic_write(out / store.SYNONYMS, own_synonyms)
        _check_stored(log, everything, rows, setup)
        pending = [row for row in rows if row[1].id not in log.answers]
        if pending and generator is None:
            policy = load_policy(model, dtype=dtype)
            limit_threads(policy.model)
            generator = LocalGenerator(policy=policy, batch_size=batch_size)
        answered = len(rows) - len(pending)
        report(answered, len(rows))
        for start in range(0, len(pending), batch_size):
            assert generator is not None
            for answers in setup.answer(pending[start : start + batch_size], generator):
                log.append(answers)
                answered += len(answers)
                report(answered, len(rows))
        answers = [log.answers[sample.id] for _, sample in rows]
    generations = [answer.generation for answer in answers]
    results = {
        **provenance(model, setup.identity, data_dir, out, template, max_new_tokens),
        "n_missing": len(selected) - len(rows),
        "seconds": sum(answer.seconds for answer in answers),
        **score(samples, generations, template, setup.synonyms),
        **({"boxes": score_boxes(samples, generations, labels)} if template in BOX_TEMPLATES else {}),
    }
    graded = [answer.graded() for answer in answers if not answer.sample.options]
    if judge is not None and graded:
        # First, so that the answers are complete if the judge fails.
        store.write_results(out, results)
        results["open"]["judge"] = judge_open(judge, graded, concurrency=batch_size, progress=progress)
    store.write_results(out, results)
    return results


def require_positive(**numbers: int | None) -> None:
    """Raise a `UsageError` if an argument is below 1. The message names the argument. None is accepted."""
    for name, number in numbers.items():
        if number is not None and number < 1:
            raise UsageError(f"{name} is {number}; wanted at least 1")


def identify(model: str, generator: object | None = None, dtype: str = "auto") -> str:
    """Identity of a model in answer keys: its fingerprint, or its name if it is on a server or if a generator is given.

    Args:
        model: Name of the model, as given.
        generator: The generator used instead of the model, or None.
        dtype: Dtype of the model; part of the identity unless it is "auto".
    """
    if generator is not None:
        return f"generator {model}"
    # The weights behind a server's name are unknown.
    if is_server(model):
        return f"server {model}"
    return fingerprint(model) + ("" if dtype == "auto" else f":{dtype}")


OF_AN_AUDIT = {"audit.json": "a model audit"}
OF_AN_EVALUATION = {store.RESULTS: "an evaluation", SAMPLES: "an evaluation"}
_OF_OTHERS = {"config.yaml": "a training", "info.json": "a data set"}


def refuse_other_folder(data_dir: Path, out: Path, other: Mapping[str, str]) -> None:
    """Refuse to write answers into the data folder or into the folder of another kind of run.

    Args:
        data_dir: The data folder.
        out: The run folder.
        other: Names of files that mark another kind of run, with its description: `OF_AN_AUDIT` or `OF_AN_EVALUATION`.

    Raises:
        UsageError: `out` is the data folder or contains another kind of run.
    """
    if data_dir.resolve() == out.resolve():
        raise UsageError(f"{out}: the run folder is the data folder; wanted another one for the answers")
    kinds = {name: kind for name, kind in {**_OF_OTHERS, **other}.items() if (out / name).exists()}
    if (kind := store.answers_kind(out / store.ANSWERS)) in other.values():
        kinds[store.ANSWERS] = str(kind)
    for name, kind in kinds.items():
        raise UsageError(f"{out} holds {kind} ({name}); give another folder with --out")


def provenance(
    model: str, identity: str, data_dir: Path, out: Path, template: str, max_new_tokens: int
) -> dict[str, Any]:
    """Provenance of an evaluation or audit: the first fields of `results.json` and `audit.json`.

    Args:
        model: Name of the model, as given.
        identity: Identity of the model in answer keys; see `identify`.
        data_dir: The data folder.
        out: The run folder. The data folder's path relative to `out` is stored too, for when both are moved together.
        template: Name of the prompt template.
        max_new_tokens: Maximum number of tokens of a completion.
    """
    return {
        "research_use": RESEARCH_USE,
        "model": model,
        "model_fingerprint": identity,
        "data": str(data_dir),
        "data_from_run": Path(os.path.relpath(data_dir, out)).as_posix(),
        "data_sha256": folder_hash(data_dir),
        "template": template,
        "max_new_tokens": max_new_tokens,
        # Only the identities of servers and generators contain a space. How they process images is unknown.
        "image_size": None if " " in identity else image_size(model),
    }


def image_size(model: str) -> dict[str, Any] | None:
    """Image size limits in a model's processor files; None if there are none.

    Args:
        model: A folder, a hub id, or `phantom-base`.
    """
    try:
        folder = processor_folder(model)
        file = next(path for name in _PROCESSORS if (path := folder / name).is_file())
        settings = json.loads(file.read_text(encoding="utf-8"))
        settings = settings.get("image_processor", settings)
        size = settings.get("size") or {}
        limits = {
            "smallest": settings.get("min_pixels") or size.get("shortest_edge"),
            "largest": settings.get("max_pixels") or size.get("longest_edge"),
            "height": size.get("height"),
            "width": size.get("width"),
        }
    except (UserError, OSError, ValueError, AttributeError, StopIteration):
        return None
    return {name: value for name, value in limits.items() if value is not None} or None


def _check_stored(
    log: store.AnswerStore, everything: Sequence[Sample], rows: Sequence[store.Row], setup: _Setup
) -> None:
    """Refuse stored answers that were made with another model, data or settings."""
    unknown = sorted(set(log.answers) - {sample.id for sample in everything})
    if unknown:
        raise UserError(
            f"{log.path}: {len(unknown)} of its {len(log.answers)} answers are to items that are not in"
            f" {setup.data_dir}, such as {unknown[0]!r}; the data differs, {store.START_AGAIN}"
        )
    for row in rows:
        if stored := log.answers.get(row[1].id):
            renamed = stored.model != setup.model
            note = f" its model was named {stored.model!r}, now {setup.model!r};" if renamed else ""
            key = setup.key(row[1], store.load_row_images(setup.data_dir, row))
            stored.check(log.path, row[1], key, note)
