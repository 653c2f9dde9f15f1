"""Normalization of open answers: case, accents, plurals, number words, units and synonyms.

A synonym file is UTF-8 text. Each line is a group of terms with the same meaning, separated by tabs. A line that starts
with `!` lists words that exclude each other, such as `upper` and `lower`. Empty lines and lines that start with `#` are
ignored.
"""

import functools
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from medvlm_r1.errors import UserError
from medvlm_r1.prompts.words import read_words

_MARKS = frozenset(",;./+&、")
STOPS = _MARKS | frozenset(["and", "or", "nor", "versus", "but"])
"""Tokens that separate the items of an answer. A line break and a question mark count as full stops."""
LENGTH, VOLUME = "mm", "ml"
_UNITS = {
    **dict.fromkeys(("mm", "millimeter", "millimetre"), (LENGTH, 1.0)),
    **dict.fromkeys(("cm", "centimeter", "centimetre"), (LENGTH, 10.0)),
    **dict.fromkeys(("m", "meter", "metre"), (LENGTH, 1000.0)),
    **dict.fromkeys(("ml", "milliliter", "millilitre"), (VOLUME, 1.0)),
    **dict.fromkeys(("l", "liter", "litre"), (VOLUME, 1000.0)),
}
WORDS = {role: tuple(words.split("|")) for role, words in read_words("open_words.txt").items()}
"""Word lists by role: numbers, tens, negations, affirmations and fillers."""
_TENS = {word: 10 * value for value, word in enumerate(WORDS["tens"], start=2)}
_NUMBER_WORDS = {word: value for value, word in enumerate(WORDS["numbers"])} | _TENS

# A minus sign counts only if nothing is joined to it, so "3-4" is a range. "2x3" is three tokens, "t2" is one.
_TOKEN = re.compile(
    r"\d+(?:st|nd|rd|th)\b|(?:(?<![^\W_])(?<![.-])-)?\d+(?:,\d{3}(?!\d))*(?:\.\d+)?|x(?=\d)|[^\W\d_][^\W_]*|[%,;./+&、]"
)
_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?")
_QUANTITY = re.compile(rf"(-?\d+(?:\.\d+)?(?:e[+-]\d+)?)({LENGTH}|{VOLUME})?")
_ALIKE = str.maketrans({"’": "'", "−": "-", "–": "-", "？": "?", "?": ".", "\n": ".", "。": ".", "×": " x "})


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number, with its unit converted to `mm` or `ml`; the unit is None if there is no unit that is converted."""

    value: float
    unit: str | None = None


def quantity(token: str) -> Quantity | None:
    """The quantity of a token of `normalize`; None if the token is not a number."""
    match = _QUANTITY.fullmatch(token)
    return Quantity(float(match[1]), match[2]) if match else None


def unit_in(tokens: Iterable[str]) -> tuple[str, float] | None:
    """The unit that a question names, as mm or ml and a conversion factor; None if it names none or several."""
    units = {_UNITS[token] for token in tokens if token in _UNITS}
    return units.pop() if len(units) == 1 else None


@dataclass(frozen=True, slots=True)
class Synonyms:
    """A synonym table.

    Attributes:
        canonical: Canonical form of each term, both as tokens.
        contraries: Words that exclude a word, with the word itself.
    """

    canonical: dict[tuple[str, ...], tuple[str, ...]] = field(default_factory=dict)
    contraries: dict[str, frozenset[str]] = field(default_factory=dict)

    def apply(self, tokens: list[str]) -> list[str]:
        """Replace terms by their canonical form, the longest term first."""
        longest = max(map(len, self.canonical), default=0)
        result: list[str] = []
        start = 0
        while start < len(tokens):
            for end in range(min(len(tokens), start + longest), start, -1):
                term = self.canonical.get(tuple(tokens[start:end]))
                if term is not None:
                    result += term
                    start = end
                    break
            else:
                result.append(tokens[start])
                start += 1
        return result


def normalize(text: str, synonyms: Synonyms) -> list[str]:
    """Tokens of an answer or a question, in lower case and in canonical form, including the separators `STOPS`.

    A number with a unit is one token, in mm or ml: `two centimeters` is `20mm`. The time is linear in the length.
    """
    return synonyms.apply(_plain(text))


def read_synonyms(path: Path | str | None = None) -> Synonyms:
    """Read the synonym table of the package, and add a user's file to it.

    A group of the user's file that shares a term with an existing group extends that group.

    Args:
        path: The user's file; None for the table of the package alone.

    Raises:
        UserError: The file cannot be read, a line has fewer than two terms or a term without letters, a line joins two
            existing groups, or it makes synonyms of words that exclude each other.
    """
    if path is None:
        return _packaged()
    packaged = _packaged()
    table = Synonyms(dict(packaged.canonical), dict(packaged.contraries))
    _add(table, Path(path))
    return table


@functools.cache
def _packaged() -> Synonyms:
    table = Synonyms()
    _add(table, Path(__file__).with_name("synonyms.tsv"))
    return table


def _add(table: Synonyms, path: Path) -> None:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            f"{path}: the synonyms cannot be read ({error}); wanted a UTF-8 text file with one group of terms per line,"
            " separated by tabs"
        ) from error
    for row, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        terms = [tuple(_plain(term)) for term in line.removeprefix("!").split("\t")]
        if len(terms) < 2 or not all(set(term) - _MARKS for term in terms):
            raise _bad(path, row, f"{line!r} has an empty term or only one; wanted two or more, separated by tabs")
        if line.startswith("!"):
            group = frozenset(" ".join(table.canonical.get(term, term)) for term in terms)
            if len(group) < 2 or any(" " in word for word in group):
                raise _bad(
                    path, row, f"{line!r} does not list different single words; wanted two or more after the '!'"
                )
            table.contraries.update(dict.fromkeys(group, group))
            continue
        known = {table.canonical[term] for term in terms if term in table.canonical}
        if len(known) > 1:
            groups = " and ".join(sorted(repr(" ".join(term)) for term in known))
            raise _bad(path, row, f"its terms belong to different groups, {groups}; remove one of them")
        main = known.pop() if known else terms[0]
        words = {" ".join(term) for term in (main, *terms)}
        for word in words:
            if len(words & table.contraries.get(word, frozenset())) > 1:
                raise _bad(path, row, f"{line!r} makes synonyms of words that exclude each other; remove one of them")
        table.canonical.update(dict.fromkeys((main, *terms), main))


def _bad(path: Path, row: int, problem: str) -> UserError:
    return UserError(f"{path}, row {row}: {problem}")


def _plain(text: str) -> list[str]:
    """Tokens without synonyms."""
    text = unicodedata.normalize("NFKD", text).casefold().translate(_ALIKE)
    text = "".join(mark for mark in text if unicodedata.category(mark) not in ("Mn", "Me", "Cf"))
    text = re.sub(r"n't\b", " not", text.replace("cannot", "can not"))
    tokens = _TOKEN.findall(re.sub(r"'s\b", "", text))
    return _with_units(list(_counted(map(_singular, tokens))))


def _singular(word: str) -> str:
    if len(word) < 4 or not word.isalpha():
        return word
    if word.endswith("ies") and word not in ("series", "caries", "species"):
        return f"{word[:-3]}y"
    if re.search("(?:ss|[nr]us|x|ch|sh)es$", word):
        return word[:-2]
    return word[:-1] if word.endswith("s") and not word.endswith(("ss", "us", "is")) else word


def _counted(tokens: Iterable[str]) -> Iterator[str]:
    """Number words as digits: `twenty five` is 25. Digits are in their shortest form."""
    tens = None
    for token in tokens:
        value = _NUMBER_WORDS.get(token)
        if tens is not None:
            if value is not None and 0 < value < 10:
                yield f"{tens + value}"
                tens = None
                continue
            yield f"{tens}"
            tens = None
        if token in _TENS:
            tens = value
        elif value is not None:
            yield f"{value}"
        else:
            yield f"{float(token.replace(',', '')):.12g}" if _NUMBER.fullmatch(token) else token
    if tens is not None:
        yield f"{tens}"


def _with_units(tokens: list[str]) -> list[str]:
    """Join numbers and their units. In `2 x 3 cm`, `2 to 3 cm` and `2-3 cm`, the unit belongs to both numbers."""
    result: list[str] = []
    unit = after = None
    for index in range(len(tokens) - 1, -1, -1):
        token = tokens[index]
        number = quantity(token)
        if number is not None:
            name, factor = unit or after or (None, 1.0)
            result.append(f"{number.value * factor:.12g}{name or ''}")
            unit, after = None, unit or after
        elif token in _UNITS and index and quantity(tokens[index - 1]):
            unit, after = _UNITS[token], None
        else:
            result.append(token)
            after = after if token in ("x", "by", "to") else None
    return result[::-1]
