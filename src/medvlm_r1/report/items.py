"""The items a report shows in full: which ones, and everything that is printed about each."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medvlm_r1.data.paths import inside
from medvlm_r1.data.sample import LETTERS, Sample
from medvlm_r1.errors import UserError
from medvlm_r1.evaluation.score import Graded, order_modalities
from medvlm_r1.evaluation.store import StoredAnswer
from medvlm_r1.report.album import Album, Picture, each_with_progress
from medvlm_r1.report.views import RunView


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One model's answer to one item.

    Attributes:
        run: name of the run.
        style: number of its colour, the same as in the charts and tables.
        verdict: "Correct", "Wrong" or "No answer", by the strict rule.
        note: what else must be known to read the verdict, "" when nothing.
        reasoning: text inside the think tag.
        answer: the chosen letter with its option, or the text in the answer tag, None when there is none.
        raw: the whole text where reasoning and answer cannot be told apart, None (and both above given) where they can.
    """

    run: str
    style: int
    verdict: str
    note: str
    reasoning: str | None
    answer: str | None
    raw: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One question as the report shows it; an image is None where its file cannot be read any more."""

    sample: Sample
    images: tuple[Picture | None, ...]
    options: tuple[tuple[str, str, bool], ...]
    replies: tuple[Reply, ...]


def choose_items(runs: Mapping[str, RunView], count: int) -> list[str]:
    """Pick item ids without looking at any answer: by the hash of the id, taking the modalities in turn.

    Items that every evaluation of the report has answered come first.

    Args:
        runs: the runs of the report.
        count: how many to pick; fewer when there are fewer.
    """
    evaluated = [view.answers for view in runs.values() if view.answers]
    if not evaluated:
        return []
    in_all = set.intersection(*({answer.sample.id for answer in answers} for answers in evaluated))
    pool = [answer.sample for answer in evaluated[0] if answer.sample.id in in_all] or [a.sample for a in evaluated[0]]
    return spread_ids(pool, count)


def spread_ids(samples: Sequence[Sample], count: int) -> list[str]:
    """Pick ids by their hash, taking the modalities in turn; they come back in the order of the modalities."""
    pool = sorted(samples, key=lambda sample: hashlib.sha256(sample.id.encode(errors="replace")).digest())
    by_modality = {
        name: [s.id for s in pool if s.modality == name] for name in order_modalities(s.modality for s in pool)
    }
    chosen: list[str] = []
    for turn in range(len(pool)):
        chosen += [ids[turn] for ids in by_modality.values() if turn < len(ids)]
    picked = set(chosen[:count])
    return [name for ids in by_modality.values() for name in ids if name in picked]


def build_items(runs: Mapping[str, RunView], ids: Sequence[str], album: Album) -> list[Item]:
    """Gather question, image and each model's answer for the given ids; the pictures are made by the album.

    Raises:
        UserError: no run has answered an id.
    """
    answered = {run: {answer.sample.id: answer for answer in view.answers} for run, view in runs.items()}
    return [_item(runs, answered, name, album) for name in each_with_progress(ids)]


def _item(
    runs: Mapping[str, RunView], answered: Mapping[str, Mapping[str, StoredAnswer]], name: str, album: Album
) -> Item:
    owner = next((run for run, answers in answered.items() if name in answers), None)
    if owner is None:
        raise UserError(
            f"item {name!r}: no run of the report has answered it; wanted an id from one of their answers.jsonl"
        )
    sample = answered[owner][name].sample
    replies = []
    for style, (run, answers) in enumerate(answered.items()):
        # The same id in another data set is another question.
        if name in answers and (answers[name].sample.question, answers[name].sample.options) == (
            sample.question,
            sample.options,
        ):
            replies.append(_reply(run, style, answers[name].graded()))
    return make_item(sample, runs[owner].data, replies, album)


def make_item(sample: Sample, data: Path | None, replies: Sequence[Reply], album: Album) -> Item:
    """A question with its pictures and answers; `data` is the folder with the images, None when it is gone."""
    return Item(
        sample=sample,
        images=tuple(_picture(data, image, album) for image in sample.images),
        options=tuple(
            (letter, text, letter == sample.letter) for letter, text in zip(LETTERS, sample.options, strict=False)
        ),
        replies=tuple(replies),
    )


def _picture(data: Path | None, image: str, album: Album) -> Picture | None:
    if data is None:
        return None
    try:
        return album.file(inside(data, image))
    except UserError:
        return None


def _reply(run: str, style: int, graded: Graded) -> Reply:
    response = graded.response
    notes = []
    if not graded.sample.options:
        notes.append("open question: correct only in the words of the reference")
    if graded.generation.truncated:
        notes.append("cut off at the token limit")
    if not response.well_formed:
        notes.append("form not kept")
    if graded.lenient_answered and not graded.answered:
        notes.append(f"{'correct' if graded.lenient_correct else 'wrong'} by the lenient rule")
    apart = response.well_formed or (response.reasoning is not None and response.answer is not None)
    return Reply(
        run=run,
        style=style,
        verdict="Correct" if graded.correct else "Wrong" if graded.answered else "No answer",
        note=", ".join(notes),
        reasoning=response.reasoning if apart else None,
        answer=_option(graded.sample, response.letter) or (response.answer if apart else None),
        raw=None if apart else graded.generation.text,
    )


def _option(sample: Sample, letter: str | None) -> str | None:
    """The letter with the text of its option, None when it is not one of the options."""
    offered = LETTERS[: len(sample.options)]
    return f"{letter}) {sample.options[offered.index(letter)]}" if letter and letter in offered else None
