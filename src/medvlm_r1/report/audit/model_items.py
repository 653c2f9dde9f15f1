"""Which items of a model's audit a report shows: those behind the findings of its probes, each kind in turn."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL.Image import Image

from medvlm_r1.audit.claims import holds, read_claims, scene_of
from medvlm_r1.audit.probe import ProbeInput
from medvlm_r1.audit.probes import cue, early, filler, image, mistakes
from medvlm_r1.audit.probes.confidence import STATED, VOTE
from medvlm_r1.audit.probes.letter_bias import shifted
from medvlm_r1.audit.registry import PROBES
from medvlm_r1.audit.variant import REAL, VariantAnswer
from medvlm_r1.data.sample import LETTERS, Sample
from medvlm_r1.report.album import Album, Picture, each_with_progress
from medvlm_r1.report.audit.model_view import AuditView, Pictures

WRONG = "wrong as the question stands"


def kinds_of(view: AuditView) -> dict[str, list[str]]:
    """Ids of items by what they show, as the probes name it, and those that are wrong."""
    found: dict[str, list[str]] = {}
    for probe in view.probes.values():
        for kind, ids in probe.items.items():
            known = found.setdefault(kind, [])
            known += [name for name in ids if name in view.items and name not in known]
    found[WRONG] = [
        name
        for name, item in view.items.items()
        if REAL in item.answers and item.answers[REAL].option not in (None, item.sample.answer)
    ]
    return {kind: ids for kind, ids in found.items() if ids}


def choose(kinds: Mapping[str, Sequence[str]], count: int) -> list[str]:
    """One item of every kind, the rarest kind first, then a second of every kind, until there are enough.

    Within a kind the order is that of a hash of the ids.
    """
    ordered = [
        sorted(ids, key=lambda name: hashlib.sha256(name.encode(errors="replace")).digest())
        for ids in sorted(kinds.values(), key=len)
    ]
    chosen: dict[str, None] = {}
    for turn in range(max((len(ids) for ids in ordered), default=0)):
        for ids in ordered:
            if turn < len(ids) and len(chosen) < count:
                chosen.setdefault(ids[turn])
    return list(chosen)


_SIDE, _NOISE_SIDE = 224, 80
"""Longest side of a picture in pixels: several stand side by side. Noise cannot be compressed, and of noise there is
nothing to be seen."""

PICTURES_SHOWN = 5
"""Most pictures of an item with one image: its own, grey, noise, another item's, and the hint drawn on its own."""

_CARDS = {
    REAL: ("As asked", "with its own image"),
    image.BLANK: ("Grey image", "grey in the place of its image"),
    image.NOISE: ("Noise", "noise in the place of its image"),
    image.SHUFFLED: ("Another item’s image", "of the same modality"),
    image.ABSENT: ("No image", "the question alone"),
    cue.IMAGE: ("Hint on the image", ""),
    cue.TEXT: ("Hint in the question", ""),
    mistakes.MISTAKE: ("Mistake in the reasoning", ""),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """One answer.

    Attributes:
        title: How it was asked, in a few words.
        how: What was changed; "" where the title says it.
        answer: Letter and option; None where none could be read.
        verdict: "Correct", "Wrong" or "No answer".
        change: "same" or "changed" against the real answer; "" where that cannot be said.
        shares: (letter, percent, chosen) of each option, for an answer weighed letter by letter.
    """

    title: str
    how: str
    answer: str | None
    verdict: str
    change: str
    shares: tuple[tuple[str, float, bool], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """An answer that was written out, with what was shown.

    Attributes:
        images: Empty where none was shown or none is there any more.
        unseen: Said in the place of an image; "" where there is one.
        reasoning: None where it cannot be told from the answer; `raw` is then the whole text.
        notes: What else must be known ("cut off at the token limit").
    """

    told: Told
    images: tuple[Picture, ...]
    unseen: str
    reasoning: str | None
    raw: str | None
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditItem:
    """One item; `sample` is None where its question is not known, `kinds` what it shows, `votes` its samples."""

    id: str
    sample: Sample
    options: tuple[tuple[str, str, bool], ...]
    kinds: tuple[str, ...]
    cards: tuple[Card, ...]
    rows: tuple[Told, ...]
    votes: str


def build_audit_items(
    view: AuditView, pictures: Pictures, wanted: int | Sequence[str], album: Album
) -> list[AuditItem]:
    """The items to show.

    Args:
        view: The audit.
        pictures: Its images.
        wanted: How many, or their ids; ids the audit does not know are left out.
        album: Makes the pictures.
    """
    kinds = kinds_of(view)
    if isinstance(wanted, int):
        # Where no probe names an item, any will do.
        ids = choose(kinds or {"": list(view.items)}, wanted)
    else:
        ids = [name for name in wanted if name in view.items]
    ids = [name for name in ids if REAL in view.items[name].answers]
    shows: dict[str, tuple[str, ...]] = {}
    for kind, of in kinds.items():
        for name in of:
            shows[name] = (*shows.get(name, ()), kind)
    return [_item(view, pictures, name, shows.get(name, ()), album) for name in each_with_progress(ids)]


def _item(view: AuditView, pictures: Pictures, name: str, kinds: tuple[str, ...], album: Album) -> AuditItem:
    sample, asked, answers = view.items[name].sample, pictures.asked(name), view.items[name].answers
    shown = _shown(asked) if asked else None
    cards = tuple(
        _card(variant, answers, sample, asked, None if shown is None else shown.get(variant), album)
        for variant in _CARDS
        if variant in answers
    )
    votes = [answer for variant, answer in answers.items() if variant.startswith(f"{VOTE}-")]
    rows = [
        _told(_title(variant, answer, sample), "", answer, sample, answers[REAL])
        for variant, answer in answers.items()
        if variant not in _CARDS and answer not in votes
    ]
    return AuditItem(
        id=name,
        sample=sample,
        options=tuple((x, text, text == sample.answer) for x, text in zip(LETTERS, sample.options, strict=False)),
        kinds=kinds,
        cards=cards,
        rows=tuple(rows),
        votes=_votes(votes, answers[REAL]),
    )


def _shown(asked: ProbeInput) -> dict[str, tuple[Image, ...]]:
    """What each variant shows, made again as the probes made it."""
    made = [variant for probe in PROBES.values() for variant in probe.first(asked)]
    return {REAL: asked.images, mistakes.MISTAKE: ()} | {
        variant.name: variant.images for variant in made if variant.name in _CARDS
    }


def _card(
    name: str,
    answers: Mapping[str, VariantAnswer],
    sample: Sample,
    asked: ProbeInput | None,
    shown: tuple[Image, ...] | None,
    album: Album,
) -> Card:
    answer = answers[name]
    title, how = _CARDS[name]
    response = answer.response(sample.options)
    apart = response.reasoning is not None and response.answer is not None
    notes = ["cut off at the token limit"] if answer.truncated else []
    if not response.well_formed:
        notes.append("form not kept")
    if name == REAL and asked is not None:
        notes += _false_claims(response.reasoning if apart else answer.text, asked.sample)
    # The image is that of the first card, so it is not shown again.
    side = _NOISE_SIDE if name == image.NOISE else _SIDE
    same = name in (cue.TEXT, mistakes.MISTAKE)
    pictures = () if same or not shown else tuple(album.picture(picture, side) for picture in shown)
    without = "with its own image" if same else "no image" if shown == () or name == image.ABSENT else "not available"
    return Card(
        told=_told(title, _how(name, answer) or how, answer, sample, answers[REAL]),
        images=pictures,
        unseen="" if pictures else without,
        reasoning=response.reasoning if apart else None,
        raw=None if apart else answer.text,
        notes=tuple(notes),
    )


def _how(name: str, answer: VariantAnswer) -> str:
    note = defaultdict(lambda: "?", answer.note)
    if name == cue.IMAGE:
        return f"“{cue.DRAWN.format(letter=note['cue'])}” is drawn on it, which is wrong"
    if name == cue.TEXT:
        return f"“{cue.HINT.format(letter=note['cue'])}” stands behind the question, which is wrong"
    if name == mistakes.MISTAKE:
        return f"“{note['before']}” was made “{note['after']}”, and the model went on from there"
    return ""


def _title(name: str, answer: VariantAnswer, sample: Sample) -> str:
    note = defaultdict(lambda: "?", answer.note)
    if isinstance(shift := note.get("shift"), int):
        return f"Options in another order: {'; '.join(shifted(sample.options, shift))}"
    if name.startswith(early.NONE_LEFT.rstrip("0")):
        return f"Reasoning cut after {note['sentences']} of {note['of']} sentences"
    if name == filler.FILLER:
        return f"{note['dots']} dots for the reasoning"
    return "Its own answer, weighed by letter" if name == STATED else name


def _told(title: str, how: str, answer: VariantAnswer, sample: Sample, real: VariantAnswer) -> Told:
    found = None if answer.option is None else f"{answer.letter}) {answer.option}"
    verdict = "No answer" if answer.option is None else "Correct" if answer.option == sample.answer else "Wrong"
    change = ""
    if answer is not real and answer.option is not None and real.option is not None:
        change = "same" if answer.option == real.option else "changed"
    weighed = zip(LETTERS, answer.probabilities or (), strict=False)
    return Told(
        title=title,
        how=how,
        answer=found,
        verdict=verdict,
        change=change,
        shares=tuple((letter, 100 * share, letter == answer.letter) for letter, share in weighed),
    )


def _votes(votes: Sequence[VariantAnswer], real: VariantAnswer) -> str:
    """The samples in one line; empty where there are none."""
    if not votes:
        return ""
    agree = sum(vote.option is not None and vote.option == real.option for vote in votes)
    letters = " ".join(vote.letter or "–" for vote in votes)
    return f"{letters}: {agree} of {len(votes)} agree with the answer"


def _false_claims(text: str | None, sample: Sample) -> list[str]:
    """The false claims of a reasoning about an image whose record is known."""
    scene = scene_of(sample)
    if scene is None or not text:
        return []
    false = [str(claim) for claim in read_claims(text, sample.options) if holds(claim, scene) is False]
    return [f"false of this image: {', '.join(false)}"] if false else []
