"""Rules that score the answer to an open question against the reference answer, from 0 to 1.

Answers are normalized (`words`) and split into items at commas, "and" and similar words. An item has words and sides
(left, right or both), and may be negated: "no left effusion" is the negated item {effusion} with the side left. The
first rule that applies decides:

1. `exact`: equal after normalization: 1.
2. `long`: longer than four times the reference and than 400 characters: 0. `no answer`: nothing is left: 0.
3. `alternatives`: "left or right", if the reference has no "or": 0.
4. `yes/no`: if the reference is yes or no: 1 for the same polarity, 0 for the other, for both and for neither.
5. `number`: if the reference has numbers and the answer has others, a different count of them, or other units: 0.
   Otherwise the numbers count as equal words, and the rule gives the score of 7 or 8.
6. `flip`: an item with the words of the reference, but negated, on another side, or with a contrary word: 0.
7. `list`: if the reference has several items: F1 of the two sets of items.
8. `words`: shared words divided by all words (Jaccard index). Words of the question do not count.

With the Jaccard index, k guesses that include the right one get a score of 1/k, so adding a guess never raises the
score.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from medvlm_r1.data.names import folded
from medvlm_r1.rewards.open_questions.words import STOPS, WORDS, Quantity, Synonyms, normalize, quantity, unit_in

TOLERANCE = 0.05
"""Largest relative error of a number."""
LONGEST, LONGEST_REFERENCE = 400, 1000
"""Largest numbers of characters. A longer answer scores 0 if it is also over four times as long as the reference. A
longer reference is not compared by items."""

_ARTICLES = frozenset(["a", "an", "the"])
_NEGATIONS, _AFFIRMATIONS, _FILLERS = (frozenset(WORDS[role]) for role in ("negations", "affirmations", "fillers"))
_SIDES = {"left": ("left",), "right": ("right",), "bilateral": ("left", "right")}
_NOT_CORE = _FILLERS | _SIDES.keys() | _NEGATIONS | _AFFIRMATIONS


class Rule(StrEnum):
    """Name of the rule that decided a score."""

    EXACT = "exact"
    LONG = "long"
    EMPTY = "no answer"
    ALTERNATIVES = "alternatives"
    YES_NO = "yes/no"
    NUMBER = "number"
    FLIP = "flip"
    LIST = "list"
    WORDS = "words"


@dataclass(frozen=True, slots=True)
class OpenScore:
    """Score of an open answer.

    Attributes:
        value: From 0 (wrong) to 1 (right).
        rule: The rule that decided.
    """

    value: float
    rule: Rule


@dataclass(frozen=True, slots=True)
class Item:
    """One item of an answer.

    Attributes:
        core: Its words without sides, negations and filler words.
        sides: "left", "right", both or none.
        negated: Whether the item is denied.
        cues: Whether a word affirms or denies it, such as "yes" or "not".
        alternative: Whether it is one of several alternatives, and not denied.
    """

    core: frozenset[str]
    sides: frozenset[str]
    negated: bool
    cues: bool = False
    alternative: bool = False

    @property
    def words(self) -> frozenset[str]:
        """Words and sides."""
        return self.core | self.sides


def score_open(answer: str, reference: str, question: str, synonyms: Synonyms) -> OpenScore:
    """Score an open answer. Any text is accepted. The time is linear in the length of the answer and of the question.

    Args:
        answer: The answer, without tags.
        reference: The correct answer.
        question: The question. Its words do not count.
        synonyms: The synonym table (`words.read_synonyms`).
    """
    if folded(reference) and folded(answer) == folded(reference):
        return OpenScore(1.0, Rule.EXACT)
    if len(answer) > max(LONGEST, 4 * len(reference)):
        return OpenScore(0.0, Rule.LONG)
    found, wanted = normalize(answer, synonyms), normalize(reference, synonyms)
    if _content(found) and _content(found) == _content(wanted):
        return OpenScore(1.0, Rule.EXACT)
    if len(reference) > LONGEST_REFERENCE:
        return OpenScore(0.0, Rule.LONG)
    asked = normalize(question, synonyms)
    found = without_copy(found, asked)
    items, right = split_items(found), split_items(wanted)
    if not items:
        return OpenScore(0.0, Rule.EMPTY)
    if any(item.alternative for item in items) and not any(item.alternative for item in right):
        return OpenScore(0.0, Rule.ALTERNATIVES)
    known = frozenset(asked)
    polarity = reference_polarity(wanted, right, known)
    answered = answer_polarity(found, known)
    # "Both sides are free of an effusion" says "no effusion" in words that the question does not have.
    if polarity is not None and (answered is not None or not any(item.core for item in right)):
        return OpenScore(float(answered is polarity), Rule.YES_NO)
    numbers = any(map(quantity, wanted))
    if numbers and any(map(quantity, found)):
        matched = match_numbers(found, wanted, asked)
        if matched is None:
            return OpenScore(0.0, Rule.NUMBER)
        found, wanted = matched
        items, right = split_items(found), split_items(wanted)
    if is_flipped(items, right, synonyms.contraries):
        return OpenScore(0.0, Rule.FLIP)
    offered = _before_alternatives(asked)
    several = len(right) > 1
    value = list_f1(items, right, offered) if several else word_overlap(items, right, offered)
    return OpenScore(value, Rule.NUMBER if numbers else Rule.LIST if several else Rule.WORDS)


def without_copy(tokens: list[str], question: Sequence[str]) -> list[str]:
    """Remove the question from the start of an answer. Questions of one or two words stay."""
    copied = list(question)
    while copied and copied[-1] in STOPS:
        copied.pop()
    while len(copied) > 2 and tokens[: len(copied)] == copied:
        tokens = tokens[len(copied) :]
    return tokens


def split_items(tokens: Sequence[str]) -> list[Item]:
    """Items of an answer. Items with the same words are one item that has the sides of all.

    A negation covers its item, and the items after "or" and "nor": "no effusion or mass" denies both. Two negations in
    one item cancel.
    """
    merged: dict[tuple[frozenset[str], bool], Item] = {}
    for item in _raw_items(tokens):
        key = item.core, item.negated
        if item.core or item.sides or item.cues:
            old = merged.get(key, item)
            merged[key] = Item(
                core=item.core,
                sides=item.sides | old.sides,
                negated=item.negated,
                cues=item.cues or old.cues,
                alternative=item.alternative or old.alternative,
            )
    return list(merged.values())


def _raw_items(tokens: Sequence[str]) -> Iterator[Item]:
    carried, words = False, list[str]()
    for token in (*tokens, "."):
        if token not in STOPS:
            words.append(token)
            continue
        negations = sum(word in _NEGATIONS for word in words)
        negated = negations % 2 == 1 if negations else carried
        yield Item(
            # "Hepatitis A" ends in a letter, not in an article.
            core=frozenset(words) - _NOT_CORE | (frozenset(words[-1:]) & {"a"}),
            sides=frozenset(side for word in words for side in _SIDES.get(word, ())),
            negated=negated,
            cues=negations > 0 or not _AFFIRMATIONS.isdisjoint(words),
            alternative=not negated and (token in ("or", "versus") or "either" in words),
        )
        carried, words = token == "nor" or (token == "or" and negated), []


def reference_polarity(tokens: Sequence[str], items: Sequence[Item], question: frozenset[str]) -> bool | None:
    """Whether a reference says yes (True) or no (False); None if it is not an answer to a yes/no question.

    It may repeat words of the question: "No effusion" says no to "Is there an effusion?".
    """
    if tokens[:1] not in (["yes"], ["no"]) or not all(item.words <= question for item in items):
        return None
    return tokens[0] == "yes"


def answer_polarity(tokens: Sequence[str], question: frozenset[str]) -> bool | None:
    """Whether an answer says yes (True) or no (False); None if it says neither or both.

    Only items without words of their own count, so an explanation with other words is ignored. "Yes" requires an
    affirming word.
    """
    about = [item for item in _raw_items(tokens) if item.words <= question and (item.core or item.sides or item.cues)]
    polarities = {not item.negated for item in about}
    # "Yes no" and "yes it is not" are one item, which is negated.
    contradictory = len(polarities) != 1 or ("yes" in tokens and False in polarities)
    if contradictory or (True in polarities and _AFFIRMATIONS.isdisjoint(tokens)):
        return None
    return polarities.pop()


def match_numbers(
    found: Sequence[str], wanted: Sequence[str], question: Sequence[str]
) -> tuple[list[str], list[str]] | None:
    """Make numbers within the tolerance equal; None if the numbers differ in count, size or unit.

    The smallest number of the answer is compared with the smallest of the reference, and so on. A number without a unit
    has the unit that the question names, if any.

    Returns:
        Both lists of tokens, with the numbers of the reference.
    """
    unit = unit_in(question)
    pairs = [sorted(_quantities(tokens, unit), key=lambda pair: pair[0].value) for tokens in (found, wanted)]
    if len(pairs[0]) != len(pairs[1]):
        return None
    equal = list(found)
    for (mine, index), (right, other) in zip(*pairs, strict=True):
        allowed = TOLERANCE * abs(right.value) * (1 + 1e-9)
        if mine.unit != right.unit or not abs(mine.value - right.value) <= allowed:
            return None
        equal[index] = wanted[other]
    return equal, list(wanted)


def _quantities(tokens: Sequence[str], unit: tuple[str, float] | None) -> Iterator[tuple[Quantity, int]]:
    for index, token in enumerate(tokens):
        number = quantity(token)
        if number is not None:
            if unit and not number.unit:
                number = Quantity(number.value * unit[1], unit[0])
            yield number, index


def is_flipped(items: Sequence[Item], right: Sequence[Item], contraries: Mapping[str, frozenset[str]]) -> bool:
    """Whether an item of the answer contradicts the reference.

    The item is compared with the reference items that have the same words. If there are none, it is compared with those
    that share a word. It must contradict all of them.
    """
    for item in items:
        equal = [other for other in right if other.core == item.core]
        near = equal or [other for other in right if not (item.core and other.core) or item.core & other.core]
        if near and all(_contradict(item, other, contraries) for other in near):
            return True
    return False


def _contradict(item: Item, other: Item, contraries: Mapping[str, frozenset[str]]) -> bool:
    if item.negated != other.negated or (item.sides and other.sides and item.sides != other.sides):
        return True
    groups = (contraries[word] for word in item.core if word in contraries)
    return any(group & other.core and group & other.core != group & item.core for group in groups)


def list_f1(items: Iterable[Item], right: Iterable[Item], question: frozenset[str]) -> float:
    """F1 of two sets of items. Words of the question are left out, unless an item has no other words."""

    def keys(some: Iterable[Item]) -> set[tuple[frozenset[str], frozenset[str], bool]]:
        return {(item.core - question or item.core, item.sides, item.negated) for item in some}

    found, wanted = keys(items), keys(right)
    return 2 * len(found & wanted) / (len(found) + len(wanted)) if found or wanted else 0.0


def word_overlap(items: Iterable[Item], right: Iterable[Item], question: frozenset[str]) -> float:
    """Jaccard index of the words of two answers. Words of the question are left out of both.

    If the reference has only words of the question, all words count.
    """
    found = frozenset[str]().union(*(item.words for item in items))
    wanted = frozenset[str]().union(*(item.words for item in right))
    if not wanted <= question:
        found, wanted = found - question, wanted - question
    return len(found & wanted) / len(found | wanted) if found or wanted else 0.0


def _before_alternatives(question: Sequence[str]) -> frozenset[str]:
    """Words of a question before the alternatives that it offers ("left" in "Is it left or right?" is the first)."""
    first = next((index for index, token in enumerate(question) if token in STOPS and token != "."), None)
    return frozenset(question if first is None else question[: max(first - 1, 0)])


def _content(tokens: Sequence[str]) -> list[str]:
    """Tokens without punctuation and articles. A final "a" stays, as in "hepatitis A"."""
    words = [token for token in tokens if token.isalnum() or quantity(token)]
    return [word for word in words[:-1] if word not in _ARTICLES] + words[-1:]
