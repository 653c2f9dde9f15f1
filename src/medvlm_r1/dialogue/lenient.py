"""The letter that a patient reader would take an answer for, when the answer is not a letter alone.

Used beside the strict letter and never in place of it: the distance between the two shows how much of a low accuracy is
form. Rules only, no similarity: where two options could be meant, none is. Only the last `WINDOW` characters of prose
and answers up to that length are read, which keeps the time bounded; a longer answer is not an answer.
"""

import re
from collections.abc import Sequence

from medvlm_r1.data.sample import LETTERS

WINDOW = 2000

# Not inside a word, not the first half of "B-cell", not "A's".
_BARE = re.compile(r"(?<![\w'’])(?<!\w-)([A-J])(?![\w'’]|-\w)")
_LEADING = re.compile(r"\W*([A-Ja-j])(?:\W*$|\s*[).:](?!\w))")
_BRACKETED = re.compile(r"\(([a-j])\)")
_MARKED = re.compile(r"(?<![\w'’-])([A-J])\)")
_STATED = re.compile(
    r"\b(?i:answer|(?:correct|right|best)\s(?:option|choice|letter)|choose|select|pick)"
    r"(?i:\s(?:is|would\sbe|should\sbe|must\sbe|option|choice|letter))*[\s:=*_\"'(\[{$\\-]+(?:boxed\{)?([A-J])(?![\w'’]|-\w)"
)
# "A mass", "I think": an article or a pronoun. "A is right", "A because": a letter.
_WORD_FOLLOWS = re.compile(r"\s+(?!(?:is|was|and|or|as|because|since|seems|appears|matches|fits)\b)[a-z]")
_LETTER_CALLED = re.compile(r"\b(?i:option|choice|letter)[\s:*(]+$")
# "hepatitis B", "type A" name a thing; "not B" rules it out.
_NOT_A_CHOICE = re.compile(
    r"\b(?i:vitamin|hepatitis|type|stage|grade|class|group|zone|not|nor|than|except)\s(?i:option\s|choice\s)?\(?$"
)
_NEGATION = re.compile(
    r"\b(?:no|non|not|nor|neither|never|without|cannot|absent|exclud\w*|unlikely|rather|instead|rul\w+\sout)\b|n['’]t\b",
    re.IGNORECASE,
)
# "No, there is none" is the answer no; "no fracture" may well be the answer yes.
_VERDICT = re.compile(r"\W*(yes|no)\b(?!\s*[\w/])", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+|\n")
_TAG = re.compile(r"</?think>", re.IGNORECASE)
_INNER = re.compile(r"\w(?:.*\w)?")


def letter_in_answer(answer: str, options: Sequence[str]) -> str | None:
    """The option that the text of an answer tag means.

    Args:
        answer: Text inside the tag.
        options: Option texts; without them any of A to J is a letter.

    Returns:
        The letter of the option whose text this is; else the one letter in it (`B.`, `(b)`, `B) Lung`); else the
        yes or no that it begins with; else the letter of the one option named in it, unless something is denied; else
        None.
    """
    if len(answer) > WINDOW:
        return None
    answer = " ".join(answer.split())
    cores = _cores(options)
    whole = cores.get(_core(answer))
    if whole:
        return whole
    rest, named = _name_options(answer, cores)
    letters = _letters(rest) & _valid(options)
    if letters:
        return letters.pop() if len(letters) == 1 else None
    return _verdict(answer, cores) or _only(named, rest)


def letter_in_prose(text: str, options: Sequence[str]) -> str | None:
    """The option that free text without an answer tag settles on.

    Args:
        text: The text, or its part after the reasoning.
        options: Option texts; without them any of A to J is a letter.

    Returns:
        The one letter stated (`the answer is B`); else the letter it consists of or begins with; else the one letter
        marked (`B)`); else the letter of the one option named in the last sentence, unless something is denied there;
        else the yes or no that the text begins with; else None. Two different stated letters give None.
    """
    text = _TAG.sub(" ", text[-WINDOW:]).strip()
    cores, valid = _cores(options), _valid(options)
    stated = {m[1] for m in _STATED.finditer(text) if not _is_word(m, text)} & valid
    if stated:
        return stated.pop() if len(stated) == 1 else None
    sentence = [s for s in _SENTENCE_END.split(text) if s.strip()][-1:]
    last = " ".join(sentence[0].split()) if sentence else ""
    whole = cores.get(_core(text)) or cores.get(_core(last))
    if whole:
        return whole
    marked = {m[1] for m in _MARKED.finditer(text)} & valid
    leading = _LEADING.match(text)
    if leading and leading[1].upper() in valid:
        marked.add(leading[1].upper())
    if len(marked) == 1:
        return marked.pop()
    rest, named = _name_options(last, cores)
    return _verdict(last, cores) or (_only(named, rest) if named else _verdict(text, cores))


def _verdict(text: str, cores: dict[str, str]) -> str | None:
    """The option "yes" or "no" when the text begins with it as a word of its own."""
    begins = _VERDICT.match(text)
    return cores.get(begins[1].casefold()) if begins else None


def _only(named: set[str], rest: str) -> str | None:
    """The one option named, when the text around it denies nothing."""
    return next(iter(named)) if len(named) == 1 and not _NEGATION.search(rest) else None


def _valid(options: Sequence[str]) -> set[str]:
    return set(LETTERS[: len(options)] if options else LETTERS)


def _core(text: str) -> str:
    """Text for comparing: lower case, single spaces, no punctuation around it (unless it is nothing else)."""
    text = " ".join(text.split()).casefold()
    inner = _INNER.search(text)
    return inner[0] if inner else text


def _cores(options: Sequence[str]) -> dict[str, str]:
    """Core of each option's text to its letter; the first of equal texts counts, as in `Sample.letter`."""
    cores: dict[str, str] = {}
    for letter, text in zip(LETTERS, options, strict=False):
        core = _core(text[: WINDOW + 1])
        # An option whose text is itself a letter cannot be told from the letter of another.
        if core and not (len(core) == 1 and core.upper() in LETTERS) and len(core) <= WINDOW:
            cores.setdefault(core, letter)
    return cores


def _name_options(text: str, cores: dict[str, str]) -> tuple[str, set[str]]:
    """Letters of the options named in the text, and the text without them.

    Longest first, so that "no fracture" is not also "fracture", and "vitamin D" does not leave a "D" behind.
    """
    named = set()
    for core in sorted(cores, key=len, reverse=True):
        if len(core) <= len(text):
            # A "no" within a sentence denies something there; at its end it is the answer.
            after = r"(?=\W*$)" if core == "no" else r"(?!\w)"
            pattern = re.compile(rf"(?<!\w){re.escape(core)}{after}", re.IGNORECASE)
            text, count = pattern.subn("\N{BULLET}", text)
            if count:
                named.add(cores[core])
    return text, named


def _letters(text: str) -> set[str]:
    """Letters that stand in an answer as letters."""
    found = {m[1] for m in _BARE.finditer(text) if not _is_word(m, text)}
    found |= {m[1].upper() for m in _BRACKETED.finditer(text)}
    leading = _LEADING.match(text)
    return found | {leading[1].upper()} if leading else found


def _is_word(match: re.Match[str], text: str) -> bool:
    """Whether a letter found is an article, a pronoun, part of a name, or ruled out."""
    before = text[max(0, match.start(1) - 40) : match.start(1)]
    if _NOT_A_CHOICE.search(before):
        return True
    follows = match[1] in "AI" and _WORD_FOLLOWS.match(text, match.end(1))
    return bool(follows) and not _LETTER_CALLED.search(before)
