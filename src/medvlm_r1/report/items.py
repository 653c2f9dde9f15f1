"""Selection and content of the items that a report shows in full."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medvlm_r1.data.sample import LETTERS, Sample
from medvlm_r1.errors import UserError
from medvlm_r1.evaluation.score import Graded, order_modalities
from medvlm_r1.report.album import Album, Picture, each_with_progress
from medvlm_r1.report.views import RunView


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One model's answer to one item.

    Attributes:
        run: name of the run.
        style: number of its color, as in charts and tables.
        verdict: "Correct", "Wrong" or "No answer", by the strict rule.
        note: a remark on the verdict, or "".
        reasoning: text inside the think tag.
        answer: the chosen letter with its option, or the text in the answer tag; None if there is none.
        raw: the full text if reasoning and answer cannot be separated, otherwise None.
    """

    run: str
    style: int
    verdict: str
    note: str
    reasoning: str | None = None
    answer: str | None = None
    raw: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One question as the report shows it; an image is None if its file can no longer be read."""

    sample: Sample
    images: tuple[Picture | None, ...]
    options: tuple[tuple[str, str, bool], ...]
    replies: tuple[Reply, ...]


def choose_items(runs: Mapping[str, RunView], count: int) -> list[str]:
    """Select item ids without regard to answers: by the hash of the id, alternating between modalities.

    Items that every evaluation of the report has answered come first.

    Args:
        runs: the runs of the report.
        count: maximum number of ids.
    """
    evaluated = [view.answers for view in runs.values() if view.answers]
    if not evaluated:
        return []
    in_all = set.intersection(*({answer.sample.id for answer in answers} for answers in evaluated))
    pool = [answer.sample for answer in evaluated[0] if answer.sample.id in in_all] or [a.sample for a in evaluated[0]]
    return spread_ids(pool, count)


def spread_ids(samples: Sequence[Sample], count: int) -> list[str]:
    """Select ids by their hash, alternating between modalities; return them in modality order."""
    pool = sorted(samples, key=lambda sample: hashlib.sha256(sample.id.encode(errors="replace")).digest())
    by_modality = {
        name: [s.id for s in pool if s.modality == name] for name in order_modalities(s.modality for s in pool)
    }
    chosen: list[str] = []
    for index in range(len(pool)):
        chosen += [ids[index] for ids in by_modality.values() if index < len(ids)]
    selected = set(chosen[:count])
    return [name for ids in by_modality.values() for name in ids if name in selected]


def build_items(runs: Mapping[str, RunView], ids: Sequence[str], album: Album) -> list[Item]:
    """Build the items for the given ids: question, images and each model's answer.

    Raises:
        UserError: no run has answered an id.
    """
    answered = {run: {answer.sample.id: answer for answer in view.answers} for run, view in runs.items()}
    items = []
    for name in each_with_progress(ids):
        owner = next((run for run, answers in answered.items() if name in answers), None)
        if owner is None:
            raise UserError(
                f"item {name!r}: no run of the report has answered it; expected an id from one of their answers.jsonl"
            )
        sample = answered[owner][name].sample
        # The same id in another data set is a different question.
        replies = [
            _reply(run, style, answers[name].graded())
            for style, (run, answers) in enumerate(answered.items())
            if name in answers
            and (answers[name].sample.question, answers[name].sample.options) == (sample.question, sample.options)
        ]
        items.append(make_item(sample, runs[owner].data, replies, album))
    return items


def make_item(sample: Sample, data: Path | None, replies: Sequence[Reply], album: Album) -> Item:
    """Build one item; `data` is the folder with the images, or None if it is gone."""
    images = tuple(None if data is None else album.find(data, image) for image in sample.images)
    return Item(sample=sample, images=images, options=option_rows(sample), replies=tuple(replies))


def option_rows(sample: Sample) -> tuple[tuple[str, str, bool], ...]:
    """Return (letter, option, whether it is correct) for each option of a question."""
    return tuple((letter, text, letter == sample.letter) for letter, text in zip(LETTERS, sample.options, strict=False))


def _reply(run: str, style: int, graded: Graded) -> Reply:
    response, sample = graded.response, graded.sample
    lenient = "correct" if graded.lenient_correct else "wrong"
    notes = {
        "open question: correct only if it matches the reference text": not sample.options,
        "truncated at the token limit": graded.generation.truncated,
        "wrong format": not response.well_formed,
        f"{lenient} by the lenient rule": graded.lenient_answered and not graded.answered,
    }
    separate = response.well_formed or (response.reasoning is not None and response.answer is not None)
    answer = response.answer if separate else None
    if response.letter and response.letter in LETTERS[: len(sample.options)]:
        answer = f"{response.letter}) {sample.options[LETTERS.index(response.letter)]}"
    return Reply(
        run=run,
        style=style,
        verdict="Correct" if graded.correct else "Wrong" if graded.answered else "No answer",
        note=", ".join(note for note, applies in notes.items() if applies),
        reasoning=response.reasoning if separate else None,
        answer=answer,
        raw=None if separate else graded.generation.text,
    )
