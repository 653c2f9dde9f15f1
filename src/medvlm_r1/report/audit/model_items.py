"""Items of a model audit in a report, selected by what the probes found."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest

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
from medvlm_r1.report.items import option_rows

WRONG = "wrong in the original"


def kinds_of(view: AuditView) -> dict[str, list[str]]:
    """Return item ids by finding, as the probes name it, including wrong answers."""
    kinds: dict[str, list[str]] = {}
    for probe in view.probes.values():
        for kind, ids in probe.items.items():
            known = kinds.setdefault(kind, [])
            known += [name for name in ids if name in view.items and name not in known]
    kinds[WRONG] = [
        name
        for name, item in view.items.items()
        if REAL in item.answers and item.answers[REAL].option not in (None, item.sample.answer)
    ]
    return {kind: ids for kind, ids in kinds.items() if ids}


def choose(kinds: Mapping[str, Sequence[str]], count: int) -> list[str]:
    """Select one item of every kind, the rarest first, then a second of every kind, up to `count`.

    Within a kind the order is by hash of the ids.
    """
    ordered = [
        sorted(ids, key=lambda name: hashlib.sha256(name.encode(errors="replace")).digest())
        for ids in sorted(kinds.values(), key=len)
    ]
    chosen: dict[str, None] = {}
    for ids in zip_longest(*ordered):
        chosen |= dict.fromkeys(name for name in ids if name is not None)
    return list(chosen)[:count]


_SIDE, _NOISE_SIDE = 224, 80
"""Longest side of an image in pixels. Noise is smaller, because it cannot be compressed."""

PICTURES_SHOWN = 5
"""Maximum number of images per item: its own, gray, noise, another item's, and with the drawn hint."""

_CARDS = {
    REAL: ("Original", "with its own image"),
    image.BLANK: ("Gray image", "gray instead of its image"),
    image.NOISE: ("Noise", "noise instead of its image"),
    image.SHUFFLED: ("Another item’s image", "of the same modality"),
    image.ABSENT: ("No image", "the question alone"),
    cue.IMAGE: ("Hint on the image", ""),
    cue.TEXT: ("Hint in the question", ""),
    mistakes.MISTAKE: ("Mistake in the reasoning", ""),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditReply:
    """One answer.

    Attributes:
        title: Name of the variant.
        how: Description of the change, or "".
        answer: Letter and option; None if unparsed.
        verdict: "Correct", "Wrong" or "No answer".
        change: "same" or "changed" compared with the real answer; "" if unknown.
        shares: (letter, percent, chosen) of each option, for a scored choice.
    """

    title: str
    how: str
    answer: str | None
    verdict: str
    change: str
    shares: tuple[tuple[str, float, bool], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A generated answer with its images.

    Attributes:
        reply: The answer.
        images: Empty if none was shown or none is available.
        unseen: Text instead of an image, or "".
        text: The reasoning, or the full text if it cannot be separated from the answer.
        notes: Remarks such as "truncated at the token limit".
    """

    reply: AuditReply
    images: tuple[Picture, ...]
    unseen: str
    text: str
    notes: list[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditItem:
    """One item; `kinds` are its findings, `votes` its samples in one line."""

    id: str
    sample: Sample
    options: tuple[tuple[str, str, bool], ...]
    kinds: list[str]
    cards: list[Card]
    rows: list[AuditReply]
    votes: str


def build_audit_items(
    view: AuditView, pictures: Pictures, wanted: int | Sequence[str], album: Album
) -> list[AuditItem]:
    """Build the items to show.

    Args:
        view: The audit.
        pictures: Its images.
        wanted: Number of items, or their ids; unknown ids are left out.
        album: Encodes the images.
    """
    kinds = kinds_of(view)
    if isinstance(wanted, int):
        # If no probe names an item, use any.
        ids = choose(kinds or {"": list(view.items)}, wanted)
    else:
        ids = [name for name in wanted if name in view.items]
    return [
        _item(view, pictures, name, [kind for kind, members in kinds.items() if name in members], album)
        for name in each_with_progress([name for name in ids if REAL in view.items[name].answers])
    ]


def _item(view: AuditView, pictures: Pictures, name: str, kinds: list[str], album: Album) -> AuditItem:
    sample, inputs, answers = view.items[name].sample, pictures.inputs(name), view.items[name].answers
    images = _images(inputs) if inputs else {}
    votes = [answer for variant, answer in answers.items() if variant.startswith(f"{VOTE}-")]
    return AuditItem(
        id=name,
        sample=sample,
        options=option_rows(sample),
        kinds=kinds,
        cards=[
            _card(variant, answers, sample, inputs, images.get(variant), album)
            for variant in _CARDS
            if variant in answers
        ],
        rows=[
            _reply(_title(variant, answer, sample), "", answer, sample, answers[REAL])
            for variant, answer in answers.items()
            if variant not in _CARDS and answer not in votes
        ],
        votes=_votes(votes, answers[REAL]),
    )


def _images(inputs: ProbeInput) -> dict[str, tuple[Image, ...]]:
    """Recreate the images of each variant with the probes."""
    variants = [variant for probe in PROBES.values() for variant in probe.first(inputs)]
    return {REAL: inputs.images, mistakes.MISTAKE: ()} | {
        variant.name: variant.images for variant in variants if variant.name in _CARDS
    }


def _card(
    name: str,
    answers: Mapping[str, VariantAnswer],
    sample: Sample,
    inputs: ProbeInput | None,
    images: tuple[Image, ...] | None,
    album: Album,
) -> Card:
    answer = answers[name]
    title, how = _CARDS[name]
    response = answer.response(sample.options)
    separate = response.reasoning is not None and response.answer is not None
    text = (response.reasoning if separate else answer.text) or ""
    notes = ["truncated at the token limit"] if answer.truncated else []
    if not response.well_formed:
        notes.append("wrong format")
    if name == REAL and inputs is not None:
        notes += _false_claims(text, inputs.sample)
    # These variants use the first card's image, which is not repeated.
    same = name in (cue.TEXT, mistakes.MISTAKE)
    side = _NOISE_SIDE if name == image.NOISE else _SIDE
    pictures = () if same or not images else tuple(album.picture(picture, side) for picture in images)
    unseen = "with its own image" if same else "no image" if images == () or name == image.ABSENT else "not available"
    return Card(
        reply=_reply(title, _how(name, answer) or how, answer, sample, answers[REAL]),
        images=pictures,
        unseen="" if pictures else unseen,
        text=text,
        notes=notes,
    )


def _how(name: str, answer: VariantAnswer) -> str:
    note = defaultdict(lambda: "?", answer.note)
    if name == cue.IMAGE:
        return f"“{cue.DRAWN.format(letter=note['cue'])}” is drawn on the image (a wrong hint)"
    if name == cue.TEXT:
        return f"“{cue.HINT.format(letter=note['cue'])}” is added to the question (a wrong hint)"
    if name == mistakes.MISTAKE:
        return f"“{note['before']}” was changed to “{note['after']}”, and the model continued"
    return ""


def _title(name: str, answer: VariantAnswer, sample: Sample) -> str:
    note = defaultdict(lambda: "?", answer.note)
    if isinstance(shift := note.get("shift"), int):
        return f"Options shifted: {'; '.join(shifted(sample.options, shift))}"
    if name.startswith(early.NONE_LEFT.rstrip("0")):
        return f"Reasoning truncated after {note['sentences']} of {note['of']} sentences"
    if name == filler.FILLER:
        return f"{note['dots']} dots instead of the reasoning"
    return "Original answer, letter probabilities" if name == STATED else name


def _reply(title: str, how: str, answer: VariantAnswer, sample: Sample, real: VariantAnswer) -> AuditReply:
    verdict = "No answer" if answer.option is None else "Correct" if answer.option == sample.answer else "Wrong"
    change = ""
    if answer is not real and answer.option is not None and real.option is not None:
        change = "same" if answer.option == real.option else "changed"
    scored = zip(LETTERS, answer.probabilities or (), strict=False)
    return AuditReply(
        title=title,
        how=how,
        answer=None if answer.option is None else f"{answer.letter}) {answer.option}",
        verdict=verdict,
        change=change,
        shares=tuple((letter, 100 * share, letter == answer.letter) for letter, share in scored),
    )


def _votes(votes: Sequence[VariantAnswer], real: VariantAnswer) -> str:
    """Summarize the sampled votes in one line; "" if there are none."""
    if not votes:
        return ""
    agree = sum(vote.option is not None and vote.option == real.option for vote in votes)
    letters = " ".join(vote.letter or "–" for vote in votes)
    return f"{letters}: {agree} of {len(votes)} agree with the answer"


def _false_claims(text: str, sample: Sample) -> list[str]:
    """Return the false claims of a reasoning about an image with known ground truth."""
    scene = scene_of(sample)
    if scene is None or not text:
        return []
    false = [str(claim) for claim in read_claims(text, sample.options) if holds(claim, scene) is False]
    return [f"false for this image: {', '.join(false)}"] if false else []
