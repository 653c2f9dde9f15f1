"""The answers of one evaluation on disk: appended one by one, never rewritten, each with the key it was made under.

`samples.jsonl` in the run folder has one JSON object per line: the sample's fields (`id`, `images`, `question`,
`options`, `answer`, `modality`, `question_type`, `subject`), what came back (`text`, `n_tokens`, `truncated`,
`seconds`), how it was read (`letter`, `correct`, both by the strict rule, for readers of the file: scoring parses
`text` again), the `model` and the `template` as they were named, and the `key`.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from PIL import Image

from medvlm_r1.data.rows import bad_row
from medvlm_r1.data.sample import Sample, row_from_sample, sample_from_row
from medvlm_r1.disk import atomic_write
from medvlm_r1.errors import UserError
from medvlm_r1.evaluation.log import AppendedLog, read_log
from medvlm_r1.evaluation.score import Graded, grade
from medvlm_r1.models.generate import Generation

ANSWERS = "samples.jsonl"
RESULTS = "results.json"
_RESULT_FIELDS = (
    "model",
    "data",
    "data_from_run",
    "data_sha256",
    "template",
    "n",
    "open",
    "n_missing",
    "seconds",
    "accuracy",
    "accuracy_mean_ci95",
    "lenient",
    "lenient_mean_ci95",
    "by_type",
    "chance",
    "well_formed",
    "no_answer",
    "no_answer_lenient",
    "cut_off",
    "mean_reasoning_words",
    "mean_completion_tokens",
)
_GENERATION_FIELDS = tuple(field.name for field in fields(Generation))
_SAMPLE_FIELDS = ("id", "images", "question", "options", "answer", "modality", "question_type", "subject")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerKey:
    """Everything an answer depends on. Two equal keys stand for the same generation.

    Attributes:
        model: hash of the weights and processor files.
        prompt: hash of the rendered messages.
        pixels: hash of the decoded images, so that a re-encoded file is the same image and an edited one is not.
        max_new_tokens: the token limit.
        temperature: 0 is greedy.
        seed: of sampling.
    """

    model: str
    prompt: str
    pixels: str
    max_new_tokens: int
    temperature: float
    seed: int

    def differences(self, now: "AnswerKey") -> list[str]:
        """Names and both values of what differs from `now`, in words; empty when the keys are equal."""
        words = []
        for field in fields(self):
            before, after = getattr(self, field.name), getattr(now, field.name)
            if before != after:
                shown = (before[:12], after[:12]) if isinstance(before, str) else (before, after)
                words.append(f"{field.name} (then {shown[0]}, now {shown[1]})")
        return words


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAnswer:
    """One line of the store.

    Attributes:
        sample: the question, without split, record and missing mark.
        generation: what the model wrote.
        seconds: its share of the batch's time.
        model: the model as the caller named it.
        template: name of the prompt template, which decides how the text is read.
        key: what the answer depends on.
    """

    sample: Sample
    generation: Generation
    seconds: float
    model: str
    template: str
    key: AnswerKey

    def graded(self) -> Graded:
        """The answer with its verdicts."""
        return grade(self.sample, self.generation, self.template)


def hash_prompt(messages: Sequence[Mapping[str, Any]]) -> str:
    """sha256 of a conversation as the model is given it."""
    return hashlib.sha256(json.dumps(messages, sort_keys=True).encode()).hexdigest()


def hash_pixels(images: Iterable[Image.Image]) -> str:
    """sha256 over mode, size and decoded pixels of the images in order."""
    digest = hashlib.sha256()
    for image in images:
        digest.update(f"{image.mode} {image.width}x{image.height};".encode())
        digest.update(image.tobytes())
    return digest.hexdigest()


def read_answers(folder: Path) -> list[StoredAnswer]:
    """All whole lines of a run folder's store, in the order they were written; the files are left as they are.

    Raises:
        UserError: there is no store, or a line is not an answer (with file and row), or an id comes twice.
    """
    path = folder / ANSWERS
    if not path.is_file():
        raise UserError(f"{path}: no such file; wanted the answers of `medvlm-r1 eval ... --out {folder}`")
    answers = []
    first: dict[str, int] = {}
    for number, row in read_log(path):
        answer = _from_row(path, number, row)
        seen = first.setdefault(answer.sample.id, number)
        if seen != number:
            raise bad_row(
                path, number, f"id {answer.sample.id!r} was answered in row {seen} already; remove one of the two"
            )
        answers.append(answer)
    return answers


class AnswerStore(AppendedLog):
    """Appends to a run folder's `samples.jsonl`, which no other process may do meanwhile; use it in a `with` block.

    Attributes:
        answers: the answers that were there at opening and those added since, by sample id.
    """

    def __init__(self, folder: Path) -> None:
        self.answers: dict[str, StoredAnswer] = {}
        super().__init__(folder, ANSWERS)

    def read(self) -> None:
        """Take up the answers that are there."""
        self.answers = {answer.sample.id: answer for answer in read_answers(self.path.parent)}

    def append(self, answers: Iterable[StoredAnswer]) -> None:
        """Write answers and force them to disk, so that what was paid for survives whatever comes next."""
        for answer in answers:
            self.write(_to_line(answer))
            self.answers[answer.sample.id] = answer
        self.force()


def write_results(folder: Path, results: Mapping[str, Any], name: str = RESULTS) -> None:
    """Write `results.json`, or another file of figures, at once or not at all."""
    atomic_write(folder / name, json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_results(folder: Path) -> dict[str, Any]:
    """The figures of a finished evaluation.

    Raises:
        UserError: there are none, or the file is not such results.
    """
    path = folder / RESULTS
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; wanted a finished evaluation, run `medvlm-r1 eval` into {folder} to its end"
        )
    try:
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        absent = [name for name in _RESULT_FIELDS if name not in results]
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: not JSON results ({error}); evaluate again into this folder to rewrite it") from error
    if absent:
        raise UserError(f"{path}: no {', '.join(absent)} in it; wanted the results of `medvlm-r1 eval`, run it again")
    return results


def _to_line(answer: StoredAnswer) -> str:
    graded = answer.graded()
    row = {name: value for name, value in row_from_sample(answer.sample).items() if name in _SAMPLE_FIELDS}
    row |= asdict(answer.generation) | {"letter": graded.response.letter, "correct": graded.correct}
    row |= {
        "seconds": answer.seconds,
        "model": answer.model,
        "template": answer.template,
        "key": asdict(answer.key),
    }
    return json.dumps(row, ensure_ascii=False)


def _from_row(path: Path, number: int, row: Mapping[str, Any]) -> StoredAnswer:
    try:
        return StoredAnswer(
            sample=sample_from_row({name: row[name] for name in _SAMPLE_FIELDS}),
            generation=Generation(**{name: row[name] for name in _GENERATION_FIELDS}),
            seconds=row["seconds"],
            model=row["model"],
            template=row["template"],
            key=AnswerKey(**row["key"]),
        )
    except (KeyError, ValueError, TypeError) as error:
        what = f"no field {error}" if isinstance(error, KeyError) else str(error)
        raise bad_row(path, number, f"not a line of `medvlm-r1 eval` ({what}); give another folder") from error
