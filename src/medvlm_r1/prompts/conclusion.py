"""Find the option that is the conclusion of a reasoning text, without reading the answer that follows.

A reward and an audit probe use this module, so its rules are strict: a text that is hedged or ambiguous has no
conclusion. The module shares no rules with the lenient parser, which reads answers and is never used for rewards. Only
the last `WINDOW` characters are read, to limit the time. `conclusion_patterns.txt` has the patterns, and
`conclusion_words.txt` the words of each role.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medvlm_r1.data.sample import LETTERS
from medvlm_r1.prompts.words import read_patterns, read_words

WINDOW = 2000

# A verdict on one option: "B knee yes", "B) knee: yes", "(B) knee - no". Adjacent groups must not both match white
# space. Otherwise, a long run of it would cause excessive backtracking.
_WEIGHED = r"(?<!\w)\(?{letter}\)?[.):]?\s+{option}\s*(?:[:,-]\s*)?(?P<verdict>yes|no)\b"

# A mention of option number i, by letter or text, becomes the i-th of these characters.
_MARKS = "".join(chr(0xE000 + index) for index in range(len(LETTERS)))
_MARK = re.compile(f"[{_MARKS}]")

_WORDS = read_words("conclusion_words.txt")
_PATTERNS = read_patterns(Path(__file__).with_name("conclusion_patterns.txt"), {**_WORDS, "marks": _MARKS})
_SENTENCE_END = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？])|\n")
# A letter that is not inside a word, not the first part of "B-cell", and not in "A's".
_LETTER = re.compile(r"(?<![\w'’-])([A-J])(?![\w'’]|-\w)")
# In "A mass" and "B lines", the letter is not an option. In "A is right" and "B because", it is.
_WORD_FOLLOWS = re.compile(rf"\s+(?!(?:{_WORDS['after_letter']})\b)[a-z]")


def states_choice(sentence: str, options: Sequence[str]) -> bool:
    """Whether a sentence of a reasoning states or weighs the options, instead of describing the image.

    It does if it names an option by its letter ("B fits", "A brain no, B knee yes"), gives a verdict on an option's
    text ("knee: yes", "a mass is unlikely"), or states the choice ("the answer is knee", "Yes, ...", "So it is the
    knee"). "There is a cyst" describes the image, even if "cyst" is an option.

    Args:
        sentence: One sentence. Only its last `WINDOW` characters are read.
        options: Option texts of the question.
    """
    sentence = sentence[-WINDOW:]
    if weighings(sentence, options) or _MARK.search(_marked(sentence, [""] * len(options))):
        return True
    marked = _marked(sentence, options)
    if _is_yes_no(options):
        return bool(_read_verdict(marked).affirmed)
    concludes = _PATTERNS["concludes"].match(marked) and _read_sentence(marked).affirmed
    return bool(_PATTERNS["stated"].search(marked) or _PATTERNS["judged"].search(marked) or concludes)


def concluded_letter(reasoning: str, options: Sequence[str]) -> str | None:
    """Letter of the option that is the conclusion of a reasoning text.

    If the reasoning judges the options one by one ("A brain no, B knee yes"), the conclusion is the option judged
    "yes". Otherwise, it is the option of the last sentence that affirms one ("the answer is B", "this is the knee",
    "findings consistent with B", "B is correct"). Later sentences may only deny other options, and earlier sentences
    may not affirm another option. A revision ("No, it is C", "wait", "actually") withdraws the text before it.

    Args:
        reasoning: Text inside the reasoning tag.
        options: Option texts of the question. If empty, any letter from A to J is accepted.

    Returns:
        The letter; None if the reasoning has no conclusion, or more than one.
    """
    text = _MARK.sub(" ", reasoning[-WINDOW:])
    by_letter = weighings(text, options)
    matches = [match for letter_matches in by_letter.values() for match in letter_matches]
    begin = max(_revisions(text, matches, options), default=0)
    last = {letter: letter_matches[-1] for letter, letter_matches in by_letter.items()}
    verdicts = {letter: match["verdict"].casefold() for letter, match in last.items() if match.start() >= begin}
    if not verdicts:
        return _stated(_marked(text[begin:], options), _is_yes_no(options))
    chosen = [letter for letter, verdict in verdicts.items() if verdict == "yes"]
    if len(chosen) != 1:
        return None
    rest = _marked(text[max(match.end() for match in matches) :], options)
    silent = not _MARK.search(rest) and not _PATTERNS["taken_back"].search(rest)
    return chosen[0] if silent or _stated(rest, _is_yes_no(options)) == chosen[0] else None


def weighings(text: str, options: Sequence[str]) -> dict[str, list[re.Match[str]]]:
    """Find the verdicts on single options ("A brain no, B knee yes").

    Args:
        text: The reasoning text, or a part of it.
        options: Option texts of the question.

    Returns:
        Matches in text order, by letter, for the letters that have a verdict. The group `verdict` is "yes" or "no".
    """
    patterns = {
        letter: _WEIGHED.format(letter=letter, option=re.escape(option[:WINDOW]))
        for letter, option in zip(LETTERS, options, strict=False)
    }
    return {
        letter: matches
        for letter, pattern in patterns.items()
        if (matches := list(re.finditer(pattern, text, flags=re.IGNORECASE)))
    }


def contradicts(reasoning: str | None, letter: str | None, options: Sequence[str]) -> bool | None:
    """Whether the conclusion of the reasoning differs from the answer letter; None if either is missing.

    See arXiv 2505.23945.
    """
    concluded = None if reasoning is None else concluded_letter(reasoning, options)
    return None if concluded is None or letter is None else concluded != letter


@dataclass(slots=True)
class _Sentence:
    """Options that a sentence states, mentions, affirms or denies, as characters of `_MARKS`."""

    stated: set[str] = field(default_factory=set)
    mentioned: set[str] = field(default_factory=set)
    affirmed: set[str] = field(default_factory=set)
    denied: set[str] = field(default_factory=set)
    unclear: bool = False


def _stated(text: str, yes_no: bool) -> str | None:
    """Letter that is the conclusion of a text in which `_marked` has replaced the options by marks."""
    sentences = [sentence for sentence in _SENTENCE_END.split(text) if sentence.strip()]
    read = [_read_verdict(sentence) if yes_no else _read_sentence(sentence) for sentence in sentences]
    denied: set[str] = set()
    mentioned: set[str] = set()
    for index, sentence in reversed(list(enumerate(read))):
        denied |= sentence.denied
        if sentence.unclear:
            return None
        if sentence.affirmed:
            chosen = sentence.stated or sentence.affirmed
            before = read[:index]
            earlier = set().union(*(other.stated if sentence.stated else other.affirmed for other in before))
            if len(chosen) > 1 or chosen & denied or (earlier | mentioned) - chosen:
                return None
            return LETTERS[_MARKS.index(chosen.pop())]
        mentioned |= sentence.mentioned
    return None


def _read_sentence(sentence: str) -> _Sentence:
    read = _Sentence()
    before = ""
    bare: set[str] = set()
    sentence = _PATTERNS["anything_but"].sub("not", _PATTERNS["affirmation"].sub(" ", sentence))
    if not _MARK.search(sentence):
        read.unclear = _PATTERNS["taken_back"].search(sentence) is not None
        return read
    if sentence.rstrip(" .\"'”’)*_").endswith(("?", "？")) or re.search(r"\bif\b", sentence, re.IGNORECASE):
        read.unclear = True
        return read
    for clause in _PATTERNS["clause_start"].split(sentence):
        marks = set(_MARK.findall(clause))
        denial, hedge = _PATTERNS["denial"].search(clause), _PATTERNS["hedge"].search(clause)
        if _PATTERNS["aside"].match(clause):
            continue
        kind = "denied" if denial else "unclear" if hedge else ""
        listed = _PATTERNS["listed"].match(clause) is not None or not _PATTERNS["verb"].search(clause)
        if not kind and marks and listed and not _PATTERNS["contrast"].match(clause):
            # In "not the brain, the lung", the denial of the first option also applies to the second.
            kind = before
        if kind and not marks:
            # "The knee is, however, not shown."
            read.unclear |= bool(read.affirmed)
        elif kind == "denied":
            # "The brain, the knee and the lung are excluded."
            if denial is not None and clause[: denial.start()].replace("and", "").strip():
                read.affirmed -= bare
                read.denied |= bare
            read.denied |= marks
        elif kind == "unclear":
            read.unclear = True
        elif marks and not (_PATTERNS["affirmed"].search(clause) or _PATTERNS["bare"].fullmatch(clause)):
            read.mentioned |= marks
        elif marks:
            if _PATTERNS["contrast"].match(clause) and not read.affirmed:
                read.unclear = False
            read.affirmed |= marks
            if _PATTERNS["stated"].search(clause):
                read.stated |= marks
            bare = marks if not _PATTERNS["verb"].search(clause) else set()
        before = kind if marks or kind else before
    return read


def _read_verdict(sentence: str) -> _Sentence:
    """Read a sentence about a yes/no question. Only a verdict at its start, or stated as the answer, counts."""
    read = _Sentence()
    leading = re.match(rf"\W*(?:so|thus|therefore|hence)?\W*([{_MARKS}])\s*(?:[.,:;!]|$)", sentence, re.IGNORECASE)
    read.stated = {match["after"] for match in _PATTERNS["stated"].finditer(sentence) if match["after"]}
    read.affirmed = read.stated or ({leading[1]} if leading else set())
    last = max((sentence.rfind(mark) for mark in read.stated), default=0)
    doubted = sentence.rstrip().endswith("?") or (_PATTERNS["hedge"].search(sentence) and read.affirmed)
    read.unclear = bool(doubted or re.search(r"\b(?:not|n['’]t|never)\W+(?:\w+\W+)?$", sentence[:last], re.IGNORECASE))
    return read


def _revisions(text: str, weighings: Sequence[re.Match[str]], options: Sequence[str]) -> list[int]:
    """End positions of the revisions in a text. A "no" that is an option or a verdict on one is not a revision."""
    answers_no = _is_yes_no(options)
    return [
        revision.end()
        for revision in _PATTERNS["revision"].finditer(text)
        if not (answers_no and revision[0].casefold().endswith("no"))
        and not any(match.start() < revision.end() <= match.end() for match in weighings)
    ]


def _is_yes_no(options: Sequence[str]) -> bool:
    return bool(options) and {_core(option) for option in options} <= {"yes", "no"}


def _core(text: str) -> str:
    """Normalize a text for comparison: lower case, single spaces, no punctuation around it (unless nothing remains)."""
    text = " ".join(text[: WINDOW + 1].split()).casefold()
    return text.strip(".,;:!?()[]\"'*_ ") or text


def _marked(text: str, options: Sequence[str]) -> str:
    """Replace each mention of an option by its mark, and collapse the white space within lines."""
    text = "\n".join(" ".join(line.split()) for line in text.splitlines())
    cores: dict[str, str] = {}
    for mark, option in zip(_MARKS, options, strict=False):
        core = _core(option)
        # An option whose text is a single letter cannot be distinguished from the letter of another option.
        if core and not (len(core) == 1 and core.upper() in LETTERS) and len(core) <= WINDOW:
            cores.setdefault(core, mark)
    # Longest first, so that "no fracture" is not also "fracture", and "vitamin D" does not leave a "D" behind.
    for core in sorted(cores, key=len, reverse=True):
        if len(core) <= len(text):
            # Within a sentence, "no" denies something. Before punctuation, it is an answer.
            after = r"(?=\s*(?:[.,:;!]|$))" if core == "no" else r"(?![\w-]|['’]\w)"
            text = re.sub(rf"(?<![\w-]){re.escape(core)}{after}", cores[core], text, flags=re.IGNORECASE | re.MULTILINE)
    valid = LETTERS[: len(options)] if options else LETTERS

    def mark_letter(match: re.Match[str]) -> str:
        return _MARKS[LETTERS.index(match[1])] if match[1] in valid and not _is_word(match) else match[0]

    # "A. brain" and "(A)": letter, text and brackets are one mention.
    text = re.sub(rf"([{_MARKS}])(?:[^\w{_MARKS}]{{0,4}}\1)+", r"\1", _LETTER.sub(mark_letter, text))
    return re.sub(rf"\(([{_MARKS}])\)", r"\1", text)


def _is_word(match: re.Match[str]) -> bool:
    """Whether a single letter is an article, a pronoun or part of a name, and therefore not an option."""
    text, end = match.string, match.end()
    before = text[max(0, match.start() - 40) : match.start()]
    if _PATTERNS["letter_called"].search(before):
        return False
    if _PATTERNS["thing_called"].search(before) or match[1] == "I" or _WORD_FOLLOWS.match(text, end):
        return True
    named = re.match(rf"\s([{_MARKS}])", text[end : end + 2])
    return match[1] == "A" and named is not None and named[1] != _MARKS[0]
