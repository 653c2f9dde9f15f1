"""Draw questions about slices whose options do not reveal the answer.

As in PhantomVQA, the option set is drawn first, and then the correct option uniformly from this set. The slice is drawn
last: the correct option is correct in it, and all others are wrong. An option set is used only if each of its options
is correct in some slice of the source. Given the options, every answer is therefore equally likely. Neither the
frequency of an organ nor anatomy alone ("the lung is larger than the esophagus") helps.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

import numpy as np
import yaml

from medvlm_r1.data.option_prior import TOLERANCE, imbalance, option_prior, rerandomize, shuffled, subset
from medvlm_r1.volumes.slices import Edges, Seen, Slice
from medvlm_r1.volumes.structures import SIDES

TYPES: dict[str, dict[str, str | list[str]]] = yaml.safe_load(
    Path(__file__).with_name("questions.yaml").read_text(encoding="utf-8")
)
"""For each attribute, its question type in OmniMedVQA and its phrasings."""
SIZES = (10.0, 30.0)
"""Default bounds of the size classes, mm."""
SIZE_MARGIN = 0.1
"""Smallest distance between a diameter and a bound, as a fraction of the bound, for a question about the size."""
MOST_OVERLAP = 0.1
"""Largest share of the box of the correct structure that lies in the box of a wrong option."""
CLEARLY_SMALLER = 0.8
"""Largest area of a wrong option, as a fraction of the area of the largest structure."""
_MOST_COUNTED = 3
_SET_DRAWS = 100
# Random halvings of the questions, and the largest distance of the option prior of a half from chance on the other.
_HALVINGS, _HALF_TOLERANCE = 4, 0.025


class Question(NamedTuple):
    """A question without its slice.

    Attributes:
        attribute: Key of `TYPES`.
        text: The question.
        options: 2 to 4 options, shuffled.
        answer: The correct option.
    """

    attribute: str
    text: str
    options: tuple[str, ...]
    answer: str


class Candidate(NamedTuple):
    """A slice in which an option is correct.

    Attributes:
        slice: The slice.
        answer: The correct option.
        asked: The organs or lesions that the question asks about; empty if it asks about the whole picture.
        excluded: Options that may not be offered with this slice, because they might be correct as well.
        marked: Whether the box is drawn into the picture.
    """

    slice: Slice
    answer: str
    asked: tuple[Seen, ...] = ()
    excluded: frozenset[str] = frozenset()
    marked: bool = False

    def fits(self, options: Iterable[str]) -> bool:
        """Whether no other of the options could be correct."""
        return self.excluded.isdisjoint(option for option in options if option != self.answer)


def draw_questions(
    slices: Sequence[Slice], n: int, seed: int, sizes: Sequence[float] = SIZES
) -> tuple[list[tuple[Question, Candidate]], dict[str, str]]:
    """Draw questions about the slices of all studies.

    The correct options are drawn again until the text-only baselines are within about 2 percentage points of chance:
    the majority letter, the longest option, the option prior with leave-one-out, and the option prior fitted on one
    half of the questions and applied to the other half.

    Args:
        slices: The slices.
        n: Number of questions; fewer are drawn if the slices do not give as many different ones.
        seed: Seed. The same arguments give the same questions.
        sizes: Ascending bounds of the size classes of lesions, mm.

    Returns:
        The questions with their slices, and for each attribute without questions the reason.
    """
    rng = np.random.default_rng(seed)
    pool: dict[str, dict[str, list[Candidate]]] = {attribute: defaultdict(list) for attribute in TYPES}
    for attribute, candidate in _candidates(slices, sizes):
        pool[attribute][candidate.answer].append(candidate)
    not_asked = {
        name: f"the answer is always {next(iter(answers))!r}" for name, answers in pool.items() if len(answers) == 1
    }
    not_asked |= {name: "no slice clearly shows what it asks about" for name, answers in pool.items() if not answers}
    attributes = [name for name in TYPES if name not in not_asked]
    room: dict[tuple[str, frozenset[str]], int] = {}

    def has_room(attribute: str, options: tuple[str, ...]) -> bool:
        """Whether another question with these options finds a slice, whichever option is correct."""
        key = attribute, frozenset(options)
        if key not in room:
            room[key] = min(sum(item.fits(options) for item in pool[attribute][option]) for option in options)
        room[key] -= 1
        return room[key] >= 0

    drafts: list[Question] = []
    while attributes and len(drafts) < n:
        attribute = attributes[int(rng.integers(len(attributes)))]
        sets = (subset(sorted(pool[attribute]), 2, rng) for _ in range(_SET_DRAWS))
        if options := next((options for options in sets if has_room(attribute, options)), None):
            text = str(rng.choice(TYPES[attribute]["phrasings"]))
            drafts.append(Question(attribute, text, shuffled(options, rng), options[0]))
        else:
            attributes.remove(attribute)
    anatomy = "anatomy gives the answer: there are no options of which each is correct in some slice"
    asked = {draft.attribute for draft in drafts}
    not_asked |= {name: anatomy for name in TYPES if name not in {*asked, *not_asked, *attributes}}

    def answered(attempt: int) -> list[Question]:
        again = np.random.default_rng((seed, attempt))
        return [draft._replace(answer=draft.options[int(again.integers(len(draft.options)))]) for draft in drafts]

    orders = [np.arange(len(drafts)), *(rng.permutation(len(drafts)) for _ in range(_HALVINGS))]

    def deviation(questions: list[Question]) -> float:
        halves = [[[questions[i] for i in order[start::2]] for start in (0, 1)] for order in orders]
        crossed = [_gain(fit, items) for first, second in halves for fit, items in ((first, second), (second, first))]
        return max(imbalance(questions), max(crossed) * TOLERANCE / _HALF_TOLERANCE)

    questions = rerandomize(answered, deviation) if len(drafts) > 1 else drafts
    return list(_with_slices(questions, pool, rng)), not_asked


def _gain(fit: Sequence[Question], items: Sequence[Question]) -> float:
    """Distance of the option prior from chance, as a fraction."""
    return abs(fmean(option_prior(fit, items)) - fmean(1 / len(item.options) for item in items))


def size_class(lesion: Seen, sizes: Sequence[float]) -> str:
    """Size class of a lesion by its longest diameter in the slice; empty if it is too close to a bound."""
    if any(abs(lesion.diameter - bound) < SIZE_MARGIN * bound for bound in sizes):
        return ""
    middle = [f"{low:g} to {high:g} mm" for low, high in pairwise(sizes)]
    names = [f"under {sizes[0]:g} mm", *middle, f"over {sizes[-1]:g} mm"]
    return names[int(np.searchsorted(sizes, lesion.diameter))]


def _with_slices(
    questions: Sequence[Question], pool: Mapping[str, Mapping[str, list[Candidate]]], rng: np.random.Generator
) -> Iterator[tuple[Question, Candidate]]:
    """Choose a slice for each question, from the study and then the candidate with the fewest questions so far."""
    of_study: Counter[Path] = Counter()
    of_candidate: Counter[tuple[str, int]] = Counter()
    written: set[tuple[str, int, frozenset[str]]] = set()
    for question in questions:
        attribute, options = question.attribute, frozenset(question.options)
        chosen = min(
            (
                item
                for item in pool[attribute][question.answer]
                if (attribute, id(item), options) not in written and item.fits(options)
            ),
            key=lambda item: (of_study[item.slice.study], of_candidate[attribute, id(item)], rng.random()),
        )
        of_study[chosen.slice.study] += 1
        of_candidate[attribute, id(chosen)] += 1
        written.add((attribute, id(chosen), options))
        yield question, chosen


def _candidates(slices: Sequence[Slice], sizes: Sequence[float]) -> Iterator[tuple[str, Candidate]]:
    """All candidates, with their attributes."""
    every = frozenset(name for item in slices for name in item.segmented)
    clear = {seen.structure for item in slices for seen in item.organs if seen.clear}
    sides = {(structure.name, structure.side) for structure in clear}
    hosts = {lesion.host.name for item in slices for lesion in item.lesions or () if lesion.host}
    for item in slices:
        organs: dict[str, list[Seen]] = defaultdict(list)
        for seen in item.organs:
            organs[seen.structure.name].append(seen)
        visible = {name: tuple(parts) for name, parts in organs.items() if all(part.clear for part in parts)}
        areas = {name: sum(part.area for part in parts) for name, parts in visible.items()}
        # A structure that was not segmented may be in the slice.
        unknown = every - item.segmented
        if visible or item.lesions:
            yield "modality", Candidate(item, item.modality)
            yield "plane", Candidate(item, item.plane)
        if item.region:
            yield "region", Candidate(item, item.region)
        for name, parts in visible.items():
            yield "organ", Candidate(item, name, parts, (unknown | organs.keys()) - {name})
            smaller = {other for other, area in areas.items() if area <= CLEARLY_SMALLER * areas[name]}
            yield "largest", Candidate(item, name, parts, every - smaller - {name})
        for seen in item.organs:
            if seen.clear and seen.filled:
                name = seen.structure.name
                near = {other.structure.name for other in item.organs if _overlap(seen.box, other.box) > MOST_OVERLAP}
                yield "boxed", Candidate(item, name, (seen,), unknown | near, marked=True)
                paired = all((name, side) in sides for side in SIDES)
                # Some structures cross the midline, such as the left brachiocephalic vein.
                if item.plane != "sagittal" and paired and seen.half == seen.side:
                    yield "side", Candidate(item, seen.side, (seen,), marked=True)
        if item.lesions is not None and all(lesion.clear for lesion in item.lesions):
            answers = _lesion_answers(item.lesions, item.plane, sizes)
            # Slices without a lesion show an organ that has one elsewhere.
            if not item.lesions and hosts and not hosts & visible.keys():
                answers = {}
            yield from ((key, Candidate(item, answer, item.lesions)) for key, answer in answers.items() if answer)


def _lesion_answers(lesions: tuple[Seen, ...], plane: str, sizes: Sequence[float]) -> dict[str, str]:
    """Answers of the questions about lesions, by attribute; empty if there is none."""
    if not lesions:
        return {"finding": "No"}
    count = len(lesions)
    answers = {"finding": "Yes", "count": str(count) if count <= _MOST_COUNTED else f"more than {_MOST_COUNTED}"}
    if count == 1:
        [lesion] = lesions
        answers |= {"host": lesion.host.name if lesion.host else "", "size": size_class(lesion, sizes)}
        answers["lesion side"] = lesion.side if plane != "sagittal" and lesion.half == lesion.side else ""
    return answers


def _overlap(box: Edges, other: Edges) -> float:
    """Share of a box that lies in another."""
    width, height = (min(box[i + 2], other[i + 2]) - max(box[i], other[i]) for i in (0, 1))
    return max(0, width) * max(0, height) / ((box[2] - box[0]) * (box[3] - box[1]))
