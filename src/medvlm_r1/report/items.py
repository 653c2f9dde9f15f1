"""Selection and content of the items of evaluations and model audits that a report shows in full."""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

from PIL.Image import Image
from PIL.ImageOps import mirror

from medvlm_r1.audit.claims import SliceRecord, checked_claims, record_of
from medvlm_r1.audit.probe import ProbeInput
from medvlm_r1.audit.probes import cue, image, pointing
from medvlm_r1.audit.probes.confidence import VOTE
from medvlm_r1.audit.probes.prefixes import MISTAKE
from medvlm_r1.audit.registry import PROBES
from medvlm_r1.audit.variant import REAL, VariantAnswer, means
from medvlm_r1.data.folder import read_folder
from medvlm_r1.data.image_facts import image_sizes
from medvlm_r1.data.sample import LETTERS, Sample
from medvlm_r1.errors import UserError
from medvlm_r1.evaluation.score import order_modalities
from medvlm_r1.evaluation.store import StoredAnswer
from medvlm_r1.models.shown import true_boxes
from medvlm_r1.phantom.scene import Scene
from medvlm_r1.prompts.boxes import BOX_TEMPLATES, Edges
from medvlm_r1.report.page import Album, Picture
from medvlm_r1.report.views import AuditView, Pictures, RunView

WRONG = "wrong in the original"
PICTURES_SHOWN = 7
"""Maximum number of images per audited item: its own, gray, noise, another item's, with the drawn hint, and two of the
probe `pointing`."""
_SIDE, _NOISE_SIDE = 224, 80
"""Longest side of an audited image in pixels. Noise is smaller, because it cannot be compressed."""

_CARDS = (
    *(REAL, image.BLANK, image.NOISE, image.SHUFFLED, image.ABSENT, cue.IMAGE, cue.TEXT),
    *(pointing.HIDDEN, pointing.ELSEWHERE, pointing.MIRRORED, MISTAKE),
)
"""Variants shown as cards. `audit_item.html` has their titles and descriptions."""
_TRUE = (REAL, pointing.HIDDEN, pointing.ELSEWHERE)
"""Variants on which true boxes are drawn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The answer of one model or baseline to one item.

    Attributes:
        run: name of the run or baseline.
        style: number of its color, as in charts and tables.
        verdict: "Correct", "Wrong" or "No answer" by the strict rule; "Tie" for a baseline that cannot decide.
        note: a remark on the verdict, or "".
        reasoning: text inside the think tag.
        answer: the chosen letter with its option, or the text in the answer tag; None if there is none.
        raw: the full text if reasoning and answer cannot be separated, otherwise None.
        boxes: the stated boxes, as fractions of the image.
    """

    run: str
    style: int
    verdict: str
    note: str
    reasoning: str | None = None
    answer: str | None = None
    raw: str | None = None
    boxes: tuple[Edges, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """One question with its images and replies. An image is None if its file can no longer be read.

    The true boxes, as fractions of the only image, are shown if a model was asked for boxes.
    """

    sample: Sample
    images: tuple[Picture | None, ...]
    replies: tuple[Reply, ...]
    truth: tuple[Edges, ...] = ()

    @property
    def views(self) -> list[tuple[str, Picture | None, tuple[Edges, ...]]]:
        """Caption, image and the model's boxes of each picture: one per image, or one per reply with boxes."""
        pointing = [(reply.run, self.images[0], reply.boxes) for reply in self.replies if reply.boxes]
        return pointing or [("", image, ()) for image in self.images]


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A generated answer of an audit with its image.

    Attributes:
        name: Name of the variant.
        answer: The answer.
        images: Images of the variant; empty if there are none, or if they equal those of the original.
        unseen: Text that replaces the images if there are none, otherwise "".
        text: The reasoning, or the full text if it cannot be separated from the answer.
        notes: Remarks such as "truncated at the token limit".
        truth: The true boxes, as fractions of the image; none if they are unknown or the image is not the item's own.
    """

    name: str
    answer: VariantAnswer
    images: tuple[Picture, ...]
    unseen: str
    text: str
    notes: list[str]
    truth: list[Edges]


@dataclass(frozen=True, slots=True, kw_only=True)
class AuditItem:
    """One audited item.

    Attributes:
        sample: The question.
        kinds: Names of the findings about this item.
        real: The answer to the original question.
        cards: Answers that are shown with an image.
        rows: Other answers by variant.
        votes: One line that summarizes the sampled answers, or "".
    """

    sample: Sample
    kinds: list[str]
    real: VariantAnswer
    cards: list[Card]
    rows: dict[str, VariantAnswer]
    votes: str

    def means(self, answer: VariantAnswer, option: str) -> bool:
        """Whether an answer is this option, or means this answer to an open question."""
        return means(self.sample, answer.option, option)


def choose_items(runs: Mapping[str, RunView], count: int) -> list[str]:
    """Select item ids without regard to answers: by the hash of the id, alternating between modalities.

    Only items that every evaluation has answered are selected. If there are none, all items of the first evaluation are
    eligible.

    Args:
        runs: the runs of the report.
        count: maximum number of ids.
    """
    evaluated = [[answer.sample for answer in view.answers] for view in runs.values() if view.answers]
    if not evaluated:
        return []
    in_all = set.intersection(*({sample.id for sample in samples} for samples in evaluated))
    return spread_ids([sample for sample in evaluated[0] if sample.id in in_all] or evaluated[0], count)


def spread_ids(samples: Sequence[Sample], count: int) -> list[str]:
    """Select ids by their hash, alternating between modalities; return them in modality order."""
    by_modality = {
        name: _by_hash(s.id for s in samples if s.modality == name)
        for name in order_modalities(s.modality for s in samples)
    }
    alternating = [name for row in zip_longest(*by_modality.values()) for name in row if name is not None]
    selected = set(alternating[:count])
    return [name for ids in by_modality.values() for name in ids if name in selected]


def choose(kinds: Mapping[str, Sequence[str]], count: int) -> list[str]:
    """Select at most `count` item ids that cover the kinds of finding.

    The first ids are one of each kind, starting with the rarest kind. A second of each kind follows, and so on. Within
    a kind, ids are ordered by their hash.

    Args:
        kinds: Item ids by kind of finding.
        count: Maximum number of ids.
    """
    rows = zip_longest(*(_by_hash(ids) for ids in sorted(kinds.values(), key=len)))
    return list(dict.fromkeys(name for row in rows for name in row if name is not None))[:count]


def _by_hash(ids: Iterable[str]) -> list[str]:
    return sorted(ids, key=lambda name: hashlib.sha256(name.encode(errors="replace")).digest())


def build_items(runs: Mapping[str, RunView], ids: Sequence[str], album: Album) -> list[Item]:
    """Build the items for the given ids: question, images and each model's answer.

    Raises:
        UserError: an id was not answered by any run.
    """
    answered = {run: {answer.sample.id: answer for answer in view.answers} for run, view in runs.items()}
    asked = {run: view for run, view in runs.items() if any(a.template in BOX_TEMPLATES for a in view.answers)}
    truths = {run: true_edges(view.data, ids) for run, view in asked.items()}
    items = []
    for name in ids:
        owner = next((run for run, answers in answered.items() if name in answers), None)
        if owner is None:
            raise UserError(
                f"item {name!r}: no run of the report has answered it; expected an id from one of their answers.jsonl"
            )
        sample = answered[owner][name].sample
        # The same id may belong to a different question in another data set.
        replies = [
            _reply(run, style, answers[name])
            for style, (run, answers) in enumerate(answered.items())
            if name in answers
            and (answers[name].sample.question, answers[name].sample.options) == (sample.question, sample.options)
        ]
        item = make_item(sample, runs[owner].data, replies, album)
        if item.images and item.images[0]:
            item.images[0].uses += len(item.views) - len(item.images)
        items.append(
            replace(item, truth=next((truths[reply.run].get(name, ()) for reply in replies if reply.run in truths), ()))
        )
    return items


def true_edges(data: Path | None, ids: Collection[str]) -> dict[str, tuple[Edges, ...]]:
    """True boxes of the samples of a data folder by id, as fractions of their only image, if they can be read."""
    with suppress(UserError):
        samples = [sample for sample in read_folder(data) if sample.id in ids and sample.boxes] if data else []
        sizes = image_sizes(str(data), samples)
        pairs = [(sample, size) for sample in samples if (size := sizes[sample.images[0]])]
        return {sample.id: tuple(edges for _, edges in true_boxes(sample, size) or ()) for sample, size in pairs}
    return {}


def make_item(sample: Sample, data: Path | None, replies: Sequence[Reply], album: Album) -> Item:
    """Build one item; `data` is the folder with the images, or None if it is gone."""
    images = tuple(None if data is None else album.find(data, name) for name in sample.images)
    return Item(sample=sample, images=images, replies=tuple(replies))


def _reply(run: str, style: int, answer: StoredAnswer) -> Reply:
    graded = answer.graded()
    response, options, score = graded.response, graded.sample.options, graded.open_score
    notes = {
        f"open question: score {score.value:.2f} (rule: {score.rule})" if score else "": score is not None,
        "truncated at the token limit": graded.generation.truncated,
        "wrong format": not response.well_formed,
        f"{'correct' if graded.lenient_correct else 'wrong'} by the lenient rule": graded.lenient_answered
        and not graded.answered,
    }
    separate = response.well_formed or (response.reasoning is not None and response.answer is not None)
    option = dict(zip(LETTERS, options, strict=False)).get(response.letter or "")
    return Reply(
        run=run,
        style=style,
        verdict="Correct" if graded.correct else "Wrong" if graded.answered else "No answer",
        note=", ".join(note for note, applies in notes.items() if applies),
        reasoning=response.reasoning if separate else None,
        answer=f"{response.letter}) {option}" if option else response.answer if separate else None,
        raw=None if separate else graded.generation.text,
        boxes=answer.stated_boxes,
    )


def kinds_of(view: AuditView) -> dict[str, list[str]]:
    """Return item ids by finding. The probes name the findings; `WRONG` is added for wrong original answers."""
    kinds: dict[str, dict[str, None]] = {}
    for probe in view.probes.values():
        for kind, ids in probe.items.items():
            kinds.setdefault(kind, {}).update((name, None) for name in ids if name in view.items)
    kinds[WRONG] = {
        name: None
        for name, item in view.items.items()
        if REAL in item.answers and item.answers[REAL].option not in (None, item.sample.answer)
    }
    return {kind: list(ids) for kind, ids in kinds.items() if ids}


def build_audit_items(
    view: AuditView, pictures: Pictures, wanted: int | Sequence[str], album: Album
) -> list[AuditItem]:
    """Build the audited items to show.

    Args:
        view: The audit.
        pictures: Images of the audit's items.
        wanted: Number of items, or the ids of the items; unknown ids are ignored.
        album: Encodes the images.
    """
    kinds = kinds_of(view)
    # If no probe names an item, use any.
    ids = choose(kinds or {"": list(view.items)}, wanted) if isinstance(wanted, int) else wanted
    items = []
    for name in (name for name in ids if name in view.items and REAL in view.items[name].answers):
        sample, answers, inputs = view.items[name].sample, view.items[name].answers, pictures.inputs(name)
        images, scene, truth = (
            (_images(inputs, answers), record_of(inputs.sample), _truth(inputs)) if inputs else ({}, None, [])
        )
        rows = {variant: answer for variant, answer in answers.items() if variant not in _CARDS}
        votes = [answer for variant, answer in rows.items() if variant.startswith(f"{VOTE}-")]
        items.append(
            AuditItem(
                sample=sample,
                kinds=[kind for kind, members in kinds.items() if name in members],
                real=answers[REAL],
                cards=[_card(v, answers[v], sample, scene, images, truth, album) for v in _CARDS if v in answers],
                rows={v: answer for v, answer in rows.items() if not v.startswith(VOTE)},
                votes=_votes(votes, answers[REAL]),
            )
        )
    return items


def _truth(inputs: ProbeInput) -> list[Edges]:
    """True boxes of an item whose model was asked for boxes."""
    known = true_boxes(inputs.sample, inputs.images[0].size) if inputs.images else None
    return [edges for _, edges in known or ()] if inputs.template in BOX_TEMPLATES else []


def _images(inputs: ProbeInput, answers: Mapping[str, VariantAnswer]) -> dict[str, tuple[Image, ...]]:
    """Use the probes to recreate the images of each variant."""
    variants = [variant for probe in PROBES.values() for variant in probe.first(inputs) if variant.name in _CARDS]
    images = {REAL: inputs.images} | {variant.name: variant.images for variant in variants}
    for name in (pointing.HIDDEN, pointing.ELSEWHERE):
        if name in answers:
            images[name] = (pointing.hide(inputs.images[0], answers[name].note["boxes"]),)
    return images | {pointing.MIRRORED: tuple(map(mirror, inputs.images))}


def _card(
    name: str,
    answer: VariantAnswer,
    sample: Sample,
    scene: Scene | SliceRecord | None,
    images: Mapping[str, tuple[Image, ...]],
    truth: list[Edges],
    album: Album,
) -> Card:
    response = answer.response(sample.options)
    separate = response.reasoning is not None and response.answer is not None
    text = (response.reasoning if separate else answer.text) or ""
    notes = {"truncated at the token limit": answer.truncated, "wrong format": not response.well_formed}
    if name == REAL and scene:
        false = [str(claim) for claim, true in checked_claims(text, sample.options, scene).items() if true is False]
        notes[f"false for this image: {', '.join(false)}"] = bool(false)
    # These variants use the first card's image, which is not repeated.
    same = name in (cue.TEXT, MISTAKE)
    side = _NOISE_SIDE if name == image.NOISE else _SIDE
    pictures = () if same else tuple(album.picture(picture, side) for picture in images.get(name, ()))
    no_image = images.get(name) == () or name == image.ABSENT
    return Card(
        name=name,
        answer=answer,
        images=pictures,
        unseen="" if pictures else "with its own image" if same else "no image" if no_image else "not available",
        text=text,
        notes=[note for note, applies in notes.items() if applies],
        truth=pointing.mirrored(truth) if name == pointing.MIRRORED else truth if name in _TRUE else [],
    )


def _votes(votes: Sequence[VariantAnswer], real: VariantAnswer) -> str:
    """Summarize the sampled votes in one line; "" if there are none."""
    agree = sum(vote.option is not None and vote.option == real.option for vote in votes)
    letters = " ".join(vote.letter or "–" for vote in votes)
    return f"{letters}: {agree} of {len(votes)} agree with the answer" if votes else ""
