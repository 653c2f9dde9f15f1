"""The files of an evaluation: its questions, the append-only `answers.jsonl` of its run folder, and its `results.json`.

Evaluations and audits share one schema, with one row per answer. Both kinds of row contain:

* the question: `id`, `images`, `question`, `options`, `answer`, `modality`, `question_type`, `subject`;
* `variant`: "real" for the unchanged question;
* the answer: `text`, `n_tokens`, `truncated`, and the `letter` by the strict rule;
* `key`: everything that the answer depends on.

Rows of an evaluation add `correct`, `seconds`, `model` and `template`; those of open questions also `score` and `rule`;
those of a box template `stated_boxes`, the boxes of the answer as fractions of the width and height of the image.
Rows of an audit are described in `medvlm_r1.audit.store`. `letter`, `correct`, `score` and `rule` are for people who
read the file; scoring parses `text` again.
"""

import hashlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from PIL.Image import Image

from medvlm_r1.data.folder import SAMPLES
from medvlm_r1.data.image_facts import image_sizes, unreadable_samples
from medvlm_r1.data.images import load_image
from medvlm_r1.data.paths import inside
from medvlm_r1.data.rows import AppendOnlyFile, append_rows, bad_row, read_json_lines
from medvlm_r1.data.sample import Sample, row_from_sample, sample_from_row
from medvlm_r1.disk import atomic_write
from medvlm_r1.errors import UserError
from medvlm_r1.evaluation.score import Graded, grade
from medvlm_r1.models.generate import Generation, GenerationSettings
from medvlm_r1.models.load import image_fit
from medvlm_r1.prompts.boxes import BOX_TEMPLATES, Edges
from medvlm_r1.prompts.templates import hash_prompt, messages
from medvlm_r1.rewards.open_questions.words import Synonyms, read_synonyms

ANSWERS = "answers.jsonl"
REAL = "real"
"""Name of the variant with the unchanged question."""
RESULTS = "results.json"
SYNONYMS = "synonyms.tsv"
"""Copy of the user's synonyms for open answers in the run folder."""
START_AGAIN = "give another --out, or delete that folder to start again"
_RESULT_FIELDS = (
    *("model", "data", "data_from_run", "data_sha256", "template", "n", "open", "n_missing", "seconds"),
    *("accuracy", "accuracy_mean_ci95", "lenient", "lenient_mean_ci95", "by_type", "chance"),
    *("well_formed", "no_answer", "no_answer_lenient", "cut_off", "mean_reasoning_words", "mean_completion_tokens"),
)
_GENERATION_FIELDS = tuple(field.name for field in fields(Generation))
_SAMPLE_FIELDS = ("id", "images", "question", "options", "answer", "modality", "question_type", "subject")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerKey:
    """Everything that an answer depends on. Equal keys mean that generation would give the same answer.

    Attributes:
        model: identity of the model, such as a hash of the weights and processor files.
        prompt: hash of the rendered messages.
        pixels: hash of the decoded images. Re-encoding a file without loss does not change it; editing pixels does.
        max_new_tokens: token limit of the completion.
        temperature: sampling temperature; 0 is greedy.
        seed: sampling seed.
    """

    model: str
    prompt: str
    pixels: str
    max_new_tokens: int
    temperature: float
    seed: int

    def differences(self, now: "AnswerKey") -> list[str]:
        """Name and both values of each field that differs from `now`; empty if the keys are equal."""
        pairs = ((field.name, str(getattr(self, field.name)), str(getattr(now, field.name))) for field in fields(self))
        return [f"{name} (then {before[:12]}, now {after[:12]})" for name, before, after in pairs if before != after]


@dataclass(slots=True, kw_only=True)
class StoredQuestion:
    """Question and key of a row of `answers.jsonl`.

    Attributes:
        sample: the question. Its fields `split`, `record` and `missing` are not stored.
        key: everything that the answer depends on.
    """

    sample: Sample
    key: AnswerKey

    def check(self, path: Path, sample: Sample, key: AnswerKey, note: str = "") -> None:
        """Check that the answer key and the correct answer are those of the current run.

        Args:
            path: The file, for the message.
            sample: The current question.
            key: Its current key.
            note: A remark for the message.

        Raises:
            UserError: They differ; the message lists the differences.
        """
        differences = self.key.differences(key)
        if self.sample.answer != sample.answer:
            differences.append(f"correct answer (then {self.sample.answer!r}, now {sample.answer!r})")
        if differences:
            raise UserError(
                f"{path}: the answer to {sample.id!r} was made with another {', another '.join(differences)};"
                f"{note} {START_AGAIN}"
            )


@dataclass(slots=True, kw_only=True)
class StoredAnswer(StoredQuestion):
    """One row of an evaluation's `answers.jsonl`.

    Attributes:
        generation: the completion.
        seconds: the answer's share of its batch's generation time.
        model: the model as the caller named it.
        template: name of the prompt template, which decides how the text is parsed.
        synonyms: the user's synonym table for open answers; None for that of the package.
        stated_boxes: boxes of the answer, as fractions of the width and height of the image.
    """

    generation: Generation
    seconds: float
    model: str
    template: str
    synonyms: Synonyms | None = None
    stated_boxes: tuple[Edges, ...] = ()

    def graded(self) -> Graded:
        """Grade the answer."""
        return grade(self.sample, self.generation, self.template, self.synonyms)


def answer_key(
    identity: str, sample: Sample, images: Iterable[Image], template: str, settings: GenerationSettings
) -> AnswerKey:
    """The key of the answer to a question.

    Args:
        identity: identity of the model, such as a hash of the weights and processor files.
        sample: the question.
        images: decoded images of the question.
        template: name of the prompt template.
        settings: length limit and sampling settings.
    """
    prompt = hash_prompt(messages(sample, template))
    return AnswerKey(model=identity, prompt=prompt, pixels=hash_pixels(images), **asdict(settings))


def hash_pixels(images: Iterable[Image]) -> str:
    """SHA-256 of mode, size and decoded pixels of the images, in order."""
    digest = hashlib.sha256()
    for image in images:
        digest.update(f"{image.mode} {image.width}x{image.height};".encode())
        digest.update(image.tobytes())
    return digest.hexdigest()


def answers_kind(path: Path) -> str | None:
    """Kind of run of an `answers.jsonl`: "an evaluation" or "a model audit"; None if the file is missing or empty."""
    first = next(read_json_lines(path, growing=True), None) if path.is_file() else None
    # Rows with the field "answers" are from an audit of version 0.1.
    return first and ("a model audit" if "plan" in first[1] or "answers" in first[1] else "an evaluation")


def row_from_question(sample: Sample) -> dict[str, Any]:
    """The fields of a question that are stored with each answer."""
    return {name: value for name, value in row_from_sample(sample).items() if name in _SAMPLE_FIELDS}


def question_from_row(row: Mapping[str, Any]) -> Sample:
    """The question of a stored answer; the inverse of `row_from_question`.

    Raises:
        KeyError: a field is missing.
        ValueError: a field has a wrong value.
    """
    return sample_from_row({name: row[name] for name in _SAMPLE_FIELDS})


def read_answers(folder: Path) -> list[StoredAnswer]:
    """Read the answers of an evaluation, in the order in which they were written. The files are not changed.

    Evaluations of version 0.1, which have the same rows in `samples.jsonl`, can be read too.

    Raises:
        UserError: the folder has no answers or an audit's answers, a row is not an answer, or an id occurs twice.
    """
    path = folder / ANSWERS
    if not path.is_file() and (folder / SAMPLES).is_file():
        path = folder / SAMPLES
    if not path.is_file():
        raise UserError(f"{path}: no such file; wanted the answers of `medvlm-r1 eval ... --out {folder}`")
    if answers_kind(path) == "a model audit":
        raise UserError(f"{path}: the answers of a model audit; wanted the folder of an evaluation (`medvlm-r1 eval`)")
    synonyms = read_synonyms(folder / SYNONYMS) if (folder / SYNONYMS).exists() else None
    answers = []
    first: dict[str, int] = {}
    for number, row in read_json_lines(path, growing=True):
        answer = _from_row(path, number, row)
        seen = first.setdefault(answer.sample.id, number)
        if seen != number:
            raise bad_row(
                path, number, f"id {answer.sample.id!r} was answered in row {seen} already; remove one of the two"
            )
        answer.synonyms = synonyms
        answers.append(answer)
    return answers


class AnswerStore(AppendOnlyFile):
    """The `answers.jsonl` of an evaluation, opened for appending. Use it in a `with` block.

    Attributes:
        answers: all stored answers by sample id, including those appended since the file was opened.
    """

    def __init__(self, folder: Path) -> None:
        self.answers: dict[str, StoredAnswer] = {}
        super().__init__(folder / ANSWERS)

    def read(self) -> None:
        """Read the stored answers. If version 0.1 stored them in `samples.jsonl`, rename it to `answers.jsonl`."""
        old = self.path.with_name(SAMPLES)
        if old.exists() and self.path.exists():
            raise UserError(f"{old.parent} holds {ANSWERS} and {SAMPLES}; remove one, or give another folder")
        if not old.exists() and not self.path.exists():
            return
        self.answers = {answer.sample.id: answer for answer in read_answers(self.path.parent)}
        if old.exists():
            old.rename(self.path)

    def append(self, answers: Iterable[StoredAnswer]) -> None:
        """Append answers to the file and flush them to disk."""
        answers = list(answers)
        append_rows(self.path, map(_to_row, answers))
        self.answers |= {answer.sample.id: answer for answer in answers}


def write_results(folder: Path, results: Mapping[str, Any], name: str = RESULTS) -> None:
    """Write `results.json`, or another JSON file of results, atomically."""
    atomic_write(folder / name, json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_results(folder: Path) -> dict[str, Any]:
    """Read the results of a finished evaluation.

    Raises:
        UserError: the file is missing or not the results of an evaluation.
    """
    path = folder / RESULTS
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; wanted a finished evaluation. Run `medvlm-r1 eval` with --out {folder} to its end"
        )
    try:
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        absent = [name for name in _RESULT_FIELDS if name not in results]
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: not JSON results ({error}); evaluate again into this folder to rewrite it") from error
    if absent:
        raise UserError(f"{path}: no {', '.join(absent)} in it; wanted the results of `medvlm-r1 eval`, run it again")
    return results


def _to_row(answer: StoredAnswer) -> dict[str, Any]:
    graded = answer.graded()
    return {
        **row_from_question(answer.sample),
        "variant": REAL,
        **asdict(answer.generation),
        "letter": graded.response.letter,
        "correct": graded.correct,
        **({"stated_boxes": answer.stated_boxes} if answer.template in BOX_TEMPLATES else {}),
        **({"score": open_score.value, "rule": open_score.rule} if (open_score := graded.open_score) else {}),
        "seconds": answer.seconds,
        "model": answer.model,
        "template": answer.template,
        "key": asdict(answer.key),
    }


def _from_row(path: Path, number: int, row: Mapping[str, Any]) -> StoredAnswer:
    try:
        return StoredAnswer(
            sample=question_from_row(row),
            generation=Generation(**{name: row[name] for name in _GENERATION_FIELDS}),
            seconds=row["seconds"],
            model=row["model"],
            template=row["template"],
            key=AnswerKey(**row["key"]),
            stated_boxes=tuple((x1, y1, x2, y2) for x1, y1, x2, y2 in row.get("stated_boxes", ())),
        )
    except (KeyError, ValueError, TypeError) as error:
        what = f"no field {error}" if isinstance(error, KeyError) else str(error)
        raise bad_row(path, number, f"not an answer of `medvlm-r1 eval` ({what}); give another folder") from error


Row = tuple[int, Sample]
"""A row number in `samples.jsonl`, counted from 1, and the sample of that row."""


def present_rows(data_dir: Path, selected: Sequence[Row], skip_missing: bool, model: str | None = None) -> list[Row]:
    """The rows whose images are present. A damaged image always raises an error.

    Args:
        data_dir: The data folder.
        selected: The rows to check.
        skip_missing: Instead of raising an error, exclude rows with a missing image and rows with an image that the
            model cannot process. The latter are listed on stderr.
        model: A local model, whose processor determines which images it can process; None for other models.

    Raises:
        UserError: Images are missing or damaged (the message names the first such row), or the model cannot process
            them (the message names every such row).
    """
    absent = {
        s.id for _, s in selected if s.unnamed_image or not all(inside(data_dir, image).is_file() for image in s.images)
    }
    present = [row for row in selected if row[1].id not in absent]
    if absent and not skip_missing:
        row, sample = next(row for row in selected if row[1].id in absent)
        raise UserError(
            f"{data_dir}: images are missing for {len(absent)} of {len(selected)} rows, the first in row {row}"
            f" ({', '.join(sample.images) or 'its source does not name it'}); put the files there, or leave such rows"
            " out with --skip-missing"
        )
    if not present:
        raise UserError(f"{data_dir}: images are missing for all {len(selected)} rows, so nothing is left to answer")
    samples = [sample for _, sample in present]
    sizes = image_sizes(data_dir, samples)
    damaged = {sample.id for sample in unreadable_samples(samples, sizes)}
    for pair in present:
        if pair[1].id in damaged:
            load_row_images(data_dir, pair)
    fit = None if model is None else image_fit(model)
    unfit = {} if fit is None else fit.unfit(present, sizes)
    if fit is None or not unfit:
        return present
    message = fit.message(data_dir, unfit)
    if not skip_missing:
        raise UserError(f"{message}. Crop or pad these images, or leave such rows out with --skip-missing")
    fitting = [row for row in present if row[1].id not in unfit]
    if not fitting:
        raise UserError(f"{message}. Nothing is left to answer")
    print(f"Left out: {message}.", file=sys.stderr)
    return fitting


def load_row_images(data_dir: Path, row: Row) -> list[Image]:
    """Load the images of a row, in order, as RGB.

    Raises:
        UserError: An image cannot be read; the message names the file and the row.
    """
    number, sample = row
    try:
        return [load_image(inside(data_dir, image)) for image in sample.images]
    except UserError as error:
        raise UserError(
            f"{data_dir / SAMPLES}, row {number} (id {sample.id!r}): {error}; repair or remove the file"
            " (a removed one can be left out with --skip-missing), then run the same command again: answers are kept"
        ) from None
