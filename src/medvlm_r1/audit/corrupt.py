"""Rule-based mistakes in a reasoning text: a word or phrase is replaced by one that contradicts it.

The sentence stays grammatical: capitalization is kept, `a` becomes `an` where needed, and singular stays singular. A
word is not changed where it has another meaning ("right" in "the right answer", "small" in "the small bowel", "head" in
"the femoral head").
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from pathlib import Path

from medvlm_r1.audit.claims import SIDE, SIZE
from medvlm_r1.data.sample import LETTERS
from medvlm_r1.disk import read_table
from medvlm_r1.prompts.conclusion import weighings

RULES: dict[str, list[tuple[list[str], str]]] = {}
"""For each rule, groups of words that exclude one another and can replace one another, and a pattern in which "{}" is
replaced by the word. Negations and options are handled separately."""
for _rule, _words, _pattern in read_table(Path(__file__).with_name("corruptions.tsv")):
    _known = {"<side>": SIDE, "<size>": SIZE}.get(_pattern, _pattern)
    RULES.setdefault(_rule, []).append((_words.split("|"), _known))

# Pattern and replacement; "\1" keeps the captured text.
NEGATIONS = read_table(Path(__file__).with_name("negations.tsv"))

_LETTERED = rf"(?<![{LETTERS}]\) )"
_ADJECTIVES = {word for rule in ("side", "size", "plane", "technique") for words, _ in RULES[rule] for word in words}
LONGEST = 2000
"""Maximum length in characters of a sentence that is changed. Longer sentences are repetitive output."""
_GENERIC = {"yes", "no", "true", "false"}
_DENYING = re.compile(r"(?:no|none|not|normal|without|absent)\b", re.IGNORECASE)
_VOWEL_SOUND = re.compile(r"[aeio]|u(?!ni|se)|(?-i:MR|X\b|X-|FL|[FHLMNRSX][A-Z])", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mistake:
    """A sentence into which a mistake was put.

    Attributes:
        index: Index of the sentence in the reasoning.
        before: The original sentence.
        after: The sentence with the mistake.
        rule: Key of `RULES`, "option", "weighing" (verdicts on options swapped) or "negation".
        relevant: Whether the answer relies on the changed words, so that the reasoning now supports another option.
    """

    index: int
    before: str
    after: str
    rule: str
    relevant: bool


def corrupt(sentences: Sequence[str], options: Sequence[str], chosen: str | None, seed: int) -> Mistake | None:
    """Put one mistake into a reasoning text.

    Relevant mistakes (see `Mistake`) are preferred. Among the remaining candidates, the choice is random.

    Args:
        sentences: The sentences of the reasoning.
        options: Option texts of the question.
        chosen: Text of the option that was answered; None if there is none.
        seed: Seed of the random choice.

    Returns:
        The mistake; None if no rule applies.
    """
    mistakes = [
        Mistake(index=index, before=sentence, after=after, rule=rule, relevant=relevant)
        for index, sentence in enumerate(sentences)
        if len(sentence) <= LONGEST
        for rule, after, relevant in _mistakes(sentence, options, chosen)
        if after != sentence
    ]
    best = [mistake for mistake in mistakes if mistake.relevant] or mistakes
    if not best:
        return None
    rng = random.Random(seed)
    # Draw the sentence first, so that sentences with many changeable words are not preferred.
    index = rng.choice(sorted({mistake.index for mistake in best}))
    return rng.choice([mistake for mistake in best if mistake.index == index])


def _mistakes(sentence: str, options: Sequence[str], chosen: str | None) -> Iterator[tuple[str, str, bool]]:
    """Yield every possible mistake as a tuple (rule, changed sentence, whether the mistake is relevant)."""
    if judged := weighings(sentence, options):
        # Swapping the names could give one option both "yes" and "no", so the verdicts are swapped instead.
        last = [matches[-1] for matches in judged.values()]
        yes, no = ([match for match in last if match["verdict"].casefold() == word] for word in ("yes", "no"))
        for match in no if len(yes) == 1 else ():
            spans = yes[0].span("verdict"), match.span("verdict")
            swapped = _splice(sentence, [(spans[0], match["verdict"]), (spans[1], yes[0]["verdict"])])
            yield "weighing", swapped, chosen is not None
        return
    yield from _lettered(sentence, options, chosen)
    options_named = _named(sentence, options)
    for option, other in product(options_named, options):
        # Generic names such as "yes" and "no" do not replace other names, because the sentence would be ungrammatical.
        usable = len(other) > 1 and other.casefold() not in _GENERIC and option.casefold() != other.casefold()
        if usable and other not in options_named and (new := _replace(sentence, _option_pattern(option), other)):
            yield "option", new, option == chosen
    for rule, groups in RULES.items():
        for words, pattern in groups:
            for word, other in permutations(words, 2):
                # "a mass or a mass" and "cyst effect" (for the option "mass effect") are nonsense, not mistakes.
                if (
                    not re.search(pattern.format(word), sentence, re.IGNORECASE)
                    or re.search(rf"\b{other}\b", sentence, re.IGNORECASE)
                    or any(
                        word.casefold() != option.casefold()
                        and re.search(rf"\b{word}\b", option, re.IGNORECASE)
                        and not _changes_option(word, other, options, option)
                        for option in options_named
                    )
                ):
                    continue
                if new := _replace(sentence, _LETTERED + pattern.format(word), other):
                    yield rule, new, _changes_option(word, other, options, chosen)
    denied = re.search(r"\b(?:no|not|nor|never)\b|n['’]t\b", sentence, re.IGNORECASE)
    for pattern, other in NEGATIONS:
        if denied and re.search(r"\bnot?\b", other):
            continue  # avoids "is not not seen"
        if negation := re.search(pattern, sentence, re.IGNORECASE):
            yield "negation", _put(sentence, negation.span(), _cased(negation[0], negation.expand(other))), False


def _lettered(sentence: str, options: Sequence[str], chosen: str | None) -> Iterator[tuple[str, str, bool]]:
    """Yield the sentence with another option, if it names exactly one by letter and text ("B) knee")."""
    named = {
        letter: matches
        for letter, option in zip(LETTERS, options, strict=False)
        if (matches := list(re.finditer(rf"(?<!\w){letter}\) {re.escape(option)}(?!\w)", sentence, re.IGNORECASE)))
    }
    if len(named) != 1:  # a list of options is not a conclusion
        return
    [(letter, matches)] = named.items()
    option = options[LETTERS.index(letter)]
    for other_letter, other in zip(LETTERS, options, strict=False):
        if other.casefold() != option.casefold():
            swapped = _splice(sentence, [(match.span(), f"{other_letter}) {other}") for match in matches])
            yield "option", swapped, option == chosen


def _splice(sentence: str, replacements: Sequence[tuple[tuple[int, int], str]]) -> str:
    """Replace each of these spans of a sentence with its new text."""
    for (start, end), new in sorted(replacements, reverse=True):
        sentence = sentence[:start] + new + sentence[end:]
    return sentence


def _named(sentence: str, options: Sequence[str]) -> list[str]:
    """The options that a sentence names. A longer option hides the shorter ones that it contains."""
    named: list[str] = []
    for option in sorted(set(options), key=lambda text: (-len(text), text)):
        pattern = _option_pattern(option)
        # If "mass effect" is named, "mass" is not listed: replacing it would change "mass effect" too.
        within = any(re.search(pattern, longer, re.IGNORECASE) for longer in named)
        if len(option) > 1 and option.casefold() not in _GENERIC and not within:
            sentence, count = re.subn(pattern, "\N{BULLET}", sentence, flags=re.IGNORECASE)
            named += [option] if count else []
    return named


def _option_pattern(option: str) -> str:
    # In "A) mass" both the letter and the text name the option, so the text alone is not replaced.
    pattern = SIDE if option.casefold() in ("left", "right") else "{}"
    return rf"{_LETTERED}(?<![\w-])" + pattern.format(re.escape(option)) + r"(?![\w-])"


def _replace(sentence: str, pattern: str, other: str) -> str | None:
    """Replace every match; return None if this changes nothing or would be ungrammatical."""
    changed = sentence
    for match in reversed(list(re.finditer(pattern, sentence, re.IGNORECASE))):
        before, after, new = sentence[: match.start()].rstrip(), sentence[match.end() :].strip(), other
        # Anything can replace words that stand alone, as in "Finding: mass." or "Mass.".
        alone = (not before or before.endswith(":")) and (not after or after[0] in ".,;!")
        denies = _DENYING.match(other) is not None
        if denies != (_DENYING.match(match[0]) is not None) and not alone:
            # "There is no finding" takes "a cyst"; it does not take "left", nor does "a small mass" take "no finding".
            if denies or other.casefold() in _ADJECTIVES or not re.search(r"\b(?:is|was)$", before, re.IGNORECASE):
                return None
            new = f"{_article(other)} {other}"
        changed = _put(changed, match.span(), _cased(match[0], new))
    return None if changed == sentence else changed


def _put(sentence: str, span: tuple[int, int], new: str) -> str:
    """Replace a span of the sentence and adjust the article before it."""
    before = sentence[: span[0]]
    if article := re.search(r"(?<!\S)(an?|^An?)(\s+)$", before):
        before = before[: article.start()] + _cased(article[1], _article(new)) + article[2]
    return before + new + sentence[span[1] :]


def _cased(old: str, new: str) -> str:
    """Apply the capitalization of the old words to the new ones. Names such as MRI keep their own."""
    name = len(new) > 1 and not new[1].islower() and new[1] != " "
    if name or not old[0].isalpha():
        return new
    plain = len(old) == 1 or old[1].islower() or old[1] == " "
    return new[0].upper() + new[1:] if old[0].isupper() and plain else new[0].lower() + new[1:]


def _article(word: str) -> str:
    return "an" if _VOWEL_SOUND.match(word) else "a"


def _changes_option(word: str, other: str, options: Sequence[str], chosen: str | None) -> bool:
    """Whether replacing `word` with `other` turns the chosen option into another offered option."""
    if chosen is None:
        return False
    turned = re.sub(rf"\b{re.escape(word)}\b", other, chosen, flags=re.IGNORECASE).casefold()
    return turned != chosen.casefold() and turned in {option.casefold() for option in options}
