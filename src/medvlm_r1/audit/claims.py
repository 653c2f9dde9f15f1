"""Claims about the image in a reasoning text, and whether they are true.

Claims cover the attributes that PhantomVQA records, and the structures that are recorded for slices of volumes. They
are parsed by rules, sentence by sentence. Questions, guesses ("it could be a mass"), lists of options with their
letters ("A) mass") and rejected options ("A brain no") are not claims. An accepted option ("B knee yes") is a claim.
Repeated claims count once.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medvlm_r1.data.sample import LETTERS, Sample
from medvlm_r1.phantom.scene import KINDS, MODALITIES, NONE, SIDES, SIZES, Scene
from medvlm_r1.prompts.assistant_response import split_sentences
from medvlm_r1.prompts.conclusion import weighings

# Patterns for words whose meaning depends on the context; "{}" is replaced by the word or words.
SIDE = (
    r"(?<!\ball )(?<!\bthat's )\b{}\b"
    r"(?!\s+(?:answer|options?|choices?|one|letter|diagnosis|over|out|behind|to)\b)"
)
"""Pattern for "left" or "right" as a side. It does not match "the right answer", "all right" or "left over"."""

SIZE = r"(?<!contrast )\b{}\b(?!\s+(?:bowel|intestines?|colon|vessels?|airways?|number|part)\b)"
"""Pattern for the size of a finding. It does not match "the small bowel" or "contrast medium"."""

ATTRIBUTES = ("modality", "technique", "region", "plane", "finding", "side", "size", "structure")
_ASKS = dict.fromkeys(("organ", "boxed", "largest", "side", "host"), "structure") | {"count": "finding"}
"""Attributes of `ATTRIBUTES` by what a question about a volume asks."""
ANY = "any"
"""The finding claimed by "there is a lesion", which does not name the kind of finding."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim about the image.

    Attributes:
        attribute: One of `ATTRIBUTES`. The view of a radiograph is its plane.
        value: One of the values of `medvlm_r1.phantom.scene`, or `ANY` for a finding of unnamed kind. For a structure
            of a volume, its name, with its side in front if one is claimed.
        negated: Whether the claim denies the value.
    """

    attribute: str
    value: str
    negated: bool = False

    def __str__(self) -> str:
        return f"{self.attribute}: {'not ' if self.negated else ''}{self.value}"


@dataclass(frozen=True, slots=True)
class SliceRecord:
    """What is recorded about a slice of a volume, as `Scene` does for PhantomVQA.

    Attributes:
        facts: The recorded value of each attribute that is known.
        visible: Clearly visible structures: a name, or a side and a name.
        unclear: Structures that may or may not be seen, in the same form.
        names: Names of all structures of the record, without sides, longest first.
        finding: `NONE`, `ANY`, or "" if it is unknown whether there is a lesion.
    """

    facts: Mapping[str, str]
    visible: frozenset[str]
    unclear: frozenset[str]
    names: tuple[str, ...]
    finding: str

    @classmethod
    def from_truth(cls, truth: Mapping[str, Any]) -> SliceRecord:
        """Convert the truth record of an image; raises KeyError or TypeError if it is incomplete."""
        organs = [(organ["side"], organ["name"]) for organ in truth["organs"]]
        unclear = set(truth["unclear"])
        bare = {text.removeprefix("left ").removeprefix("right ") for text in unclear}
        names = {name for _, name in organs} | bare | set(truth["absent"])
        known = "findings" in truth
        return cls(
            facts={name: truth[name] for name in ("modality", "technique", "region", "plane") if truth[name]},
            visible=frozenset({name for _, name in organs} | {f"{side} {name}" for side, name in organs if side}),
            unclear=frozenset(unclear | bare),
            names=tuple(sorted(names, key=lambda name: (-len(name), name))),
            finding=(ANY if truth["findings"] else NONE) if known else "",
        )

    def holds(self, claim: Claim) -> bool | None:
        """Whether a claim is true of the slice; None if the record does not decide it. See `holds`."""
        true: bool | None = None
        if claim.attribute == "structure":
            true = claim.value in self.visible or (None if claim.value in self.unclear else False)
        elif claim.attribute == "finding" and self.finding:
            kind = claim.value not in (ANY, NONE)
            true = None if kind and self.finding == ANY else claim.value == self.finding
        elif claim.attribute in self.facts:
            true = self.facts[claim.attribute].casefold() == claim.value.casefold()
        return None if true is None else true != claim.negated


_VIEW = r"(?=\s+(?:X-?ray|view|radiograph|projection|image|plane)\b|\s*[.,;]?$)"
_QUIET = r"(?:(?!other|further|additional)[\w-]+ ){0,2}"


def _compile(attribute: str, value: str, pattern: str) -> tuple[str, str, re.Pattern[str]]:
    pattern = SIZE.format(pattern) if attribute == "size" else SIDE.format(pattern) if pattern in SIDES else pattern
    pattern = pattern.replace("<view>", _VIEW).replace("<quiet>", _QUIET)
    return attribute, value, re.compile(rf"(?<![\w-])(?:{pattern})(?!\w)", re.IGNORECASE)


# The order matters, because matched text is removed. The "brain" in "brain window" then does not count as a head, and
# the "lesion" in "ring-enhancing lesion" is not matched twice. The patient faces the reader, so the patient's right is
# on the image's left.
_TABLE = Path(__file__).with_name("claims.tsv").read_text(encoding="utf-8").splitlines()
_COMPILED = [_compile(*line.split("\t")) for line in _TABLE[1:]]

_GUESS = re.compile(
    r"\b(?:could|might|may|maybe|perhaps|possibly|probably|likely|whether|if|either|options?|choices?|question|typical(?:ly)?"
    r"|usually|would)\b|\?\s*$",
    re.IGNORECASE,
)
# White space is matched only from its first character. Otherwise the search in a long run would take quadratic time.
_BORDER = re.compile(
    r"[;:]|,?(?<!\s)\s+\b(?:but|however|although|though|while|whereas|instead)\b|,(?=[^,;:]*\b(?:is|are|was|were|shows?|has|have)\b)",
    re.IGNORECASE,
)
_DENIED = re.compile(r"\b(?:no|not|without|neither|nor|never|absence of|rather than|cannot)\b|n['’]t\b", re.IGNORECASE)
_NOT_THIS = re.compile(r"(?:\bnot|n['’]t|\bnever)\s+(?:(?:an?|the|of|in|on)\s+){0,2}$", re.IGNORECASE)
_NEAR = 40
"""Number of characters before a word that are searched for its negation."""
_DENIED_AFTER = re.compile(r"\s+(?:is|are)\s+(?:absent|excluded|ruled out|not\b)", re.IGNORECASE)


def read_claims(reasoning: str, options: Sequence[str], names: tuple[str, ...] = ()) -> list[Claim]:
    """Parse the claims in a reasoning text. Each claim is listed once, in order of first mention.

    Args:
        reasoning: The text.
        options: Option texts of the question.
        names: Names of structures that may be claimed, longest first.
    """
    return list(dict.fromkeys(claim for clause in _clauses(reasoning, options) for claim in _in_clause(clause, names)))


@functools.lru_cache(maxsize=256)
def _structures(names: tuple[str, ...]) -> list[tuple[str, str, re.Pattern[str]]]:
    patterns = []
    for name in names:
        words = r"[\s_-]+".join(map(re.escape, re.split(r"[\s_-]+", name)))
        pattern = rf"(?<![\w-])(?:(?P<side>left|right)[\s-]+)?{words}(?:e?s)?(?!\w)"
        patterns.append(("structure", name, re.compile(pattern, re.IGNORECASE)))
    return patterns


def affirmed_labels(reasoning: str, options: Sequence[str], labels: Iterable[str]) -> set[str]:
    """Return the box labels that a reasoning affirms, written in the singular or with a plural s.

    A label does not count in a guess, in a list of options, in a rejected option, or if it is denied ("no mass").
    """

    def affirms(clause: str, label: str) -> bool:
        words = r"[\s_-]+".join(map(re.escape, re.split(r"[\s_-]+", label.strip())))
        match = re.search(rf"(?<![\w-]){words}(?:e?s)?(?!\w)", clause, re.IGNORECASE)
        return bool(
            match and not _DENIED.search(clause, 0, match.start()) and not _DENIED_AFTER.match(clause, match.end())
        )

    clauses = list(_clauses(reasoning, options))
    return {label for label in labels if any(affirms(clause, label) for clause in clauses)}


def scene_of(sample: Sample) -> Scene | None:
    """The recorded PhantomVQA scene of a sample's only image; None if there is none."""
    record = record_of(sample)
    return record if isinstance(record, Scene) else None


def record_of(sample: Sample) -> Scene | SliceRecord | None:
    """The record of a sample's only image; None without a record, or if the record uses unknown words."""
    images = sample.truth.get("images")
    if not isinstance(images, list) or len(images) != 1:
        return None
    try:
        if "organs" in images[0]:
            return SliceRecord.from_truth(images[0])
        scene = Scene.from_truth(images[0])
    except (KeyError, TypeError):
        return None
    known = scene.modality in MODALITIES and scene.finding in (*KINDS, NONE)
    return scene if known and scene.side in (*SIDES, None) and scene.size in (*SIZES, None) else None


def question_attribute(sample: Sample, scene: Scene | SliceRecord) -> str | None:
    """The attribute of `ATTRIBUTES` that a question asks about; None if it is unknown."""
    attribute: Any = sample.truth.get("asks")
    if isinstance(scene, SliceRecord):
        return _ASKS.get(attribute, attribute if attribute in scene.facts or attribute == "finding" else None)
    if attribute == "technique" and scene.modality == "X-ray":
        return "plane"
    return attribute if attribute in ATTRIBUTES else None


def holds(claim: Claim, scene: Scene | SliceRecord) -> bool | None:
    """Whether a claim is true of the image.

    Args:
        claim: The claim.
        scene: The record of the image.

    Returns:
        True or False; None if the image does not decide the claim. This is the case for a side in a plane that does not
        show sides. If there is no finding, it is also the case for a negated size or side.
        A side or size without a structure is never decided in a slice of a volume.
    """
    if isinstance(scene, SliceRecord):
        return scene.holds(claim)
    if claim.attribute in ("side", "size") and scene.finding == NONE:
        # If there is no finding, a claimed size or side is false, and a negated one cannot be decided.
        return None if claim.negated else False
    if claim.attribute == "side" and not scene.side_is_seen:
        return None
    value = claim.value
    if claim.attribute == "plane" and scene.modality != "X-ray":
        value = {"frontal": "coronal", "lateral": "sagittal"}.get(value, value)
    recorded: str = getattr(scene, claim.attribute)
    true = recorded != NONE if value == ANY else recorded == value
    return true != claim.negated


def checked_claims(reasoning: str, options: Sequence[str], scene: Scene | SliceRecord) -> dict[Claim, bool | None]:
    """The claims in a reasoning text (`read_claims`), and whether each is true of the image (`holds`)."""
    names = scene.names if isinstance(scene, SliceRecord) else ()
    return {claim: holds(claim, scene) for claim in read_claims(reasoning, options, names)}


def claims_finding(claims: Sequence[Claim]) -> bool | None:
    """Whether the claims state that a finding is present; None if they state neither presence nor absence, or both."""
    claimed = {claim.value != NONE for claim in claims if claim.attribute == "finding" and not claim.negated}
    # A size or a side implies a finding.
    claimed |= {True for claim in claims if claim.attribute in ("side", "size") and not claim.negated}
    return claimed.pop() if len(claimed) == 1 else None


def _clauses(reasoning: str, options: Sequence[str]) -> Iterator[str]:
    """The clauses of a reasoning that are no guesses, without the options that they list, and its accepted options."""
    for sentence in split_sentences(reasoning):
        rest, affirmed = _without_options(sentence, options)
        if not _GUESS.search(rest):
            yield from _BORDER.split(rest)
        yield from affirmed


def _without_options(sentence: str, options: Sequence[str]) -> tuple[str, list[str]]:
    """Remove the options that a sentence lists or judges. Return the sentence and the accepted options."""
    affirmed, spans = [], []
    for letter, matches in weighings(sentence, options).items():
        spans += [match.span() for match in matches]
        if matches[-1]["verdict"].casefold() == "yes":
            affirmed.append(options[LETTERS.index(letter)])
    for letter, option in zip(LETTERS, options, strict=False):
        listed = re.compile(rf"(?<!\w)\(?{letter}[.):]\s*{re.escape(option)}(?!\w)", re.IGNORECASE)
        spans += [match.span() for match in listed.finditer(sentence)]
    for start, end in sorted(spans, reverse=True):
        sentence = sentence[:start] + " " * (end - start) + sentence[end:]
    return sentence, affirmed


def _in_clause(clause: str, names: tuple[str, ...]) -> Iterator[Claim]:
    """Parse the claims of a clause, in the order of its words. `names` are those of structures."""
    clause = rest = clause.strip()
    # Search once per clause, because a repetitive model can write clauses of thousands of words.
    first = _DENIED.search(clause)
    denied_from = first.end() if first else len(clause) + 1
    mentions: list[tuple[int, str, str, bool, bool]] = []
    for attribute, value, pattern in (*_structures(names), *_COMPILED):
        matches = list(pattern.finditer(rest))
        for match in matches:
            direct = _NOT_THIS.search(clause, max(0, match.start() - _NEAR), match.start()) is not None
            # "No finding" is itself a denial, so its "no" does not negate it.
            denied = value != NONE and (denied_from <= match.start() or bool(_DENIED_AFTER.match(clause, match.end())))
            side = (match.groupdict().get("side") or "").casefold()
            mentions.append((match.start(), attribute, f"{side} {value}".strip(), direct, denied))
        if matches:
            rest = pattern.sub(lambda match: "_" * len(match[0]), rest)
    # "No large mass" does not deny that there is a mass, and "no mass on the left" allows one on the right.
    narrowed = any(denied and attribute in ("side", "size") for _, attribute, _, _, denied in mentions)
    for _, attribute, value, direct, denied in sorted(mentions):
        if attribute == "structure" or (attribute == "finding" and not (denied and narrowed and not direct)):
            yield Claim(attribute, value, denied)
        elif attribute != "finding" and (direct or not denied or attribute not in ("side", "size")):
            yield Claim(attribute, value, direct)
