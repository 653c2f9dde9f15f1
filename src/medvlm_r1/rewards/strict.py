"""Strict form of a completion: reasoning and answer in their tags, and nothing else. All strict rewards use it."""

import re
import unicodedata
from collections.abc import Sequence

from medvlm_r1.prompts.boxes import without_boxes
from medvlm_r1.rewards.completion import Completion, completion_text

MIN_REASONING = 5
"""Minimum number of letters in the reasoning. "It is B" has 5 letters. An ideograph, kana or Hangul syllable counts as
two. Digits, punctuation and invisible characters do not count."""

_TAG = re.compile(r"</?(?:think|answer)>")
# Text that a reader, a browser or a lenient parser could take for a tag or a comment.
_LIKE_A_TAG = re.compile(r"<[\s/]*(?:think|answer)")
_COMMENT = "<!"
_ESCAPED = re.compile(r"&(?:lt|#0*60|#x0*3c);?|%3c|\\(?:u00|x)3c", re.IGNORECASE)
_ANGLES = frozenset("<\N{LESS-THAN SIGN}‹〈⟨〈⧼❮❰❬《«≺﹤＜")
# Cyrillic and Greek letters, and the dotless i, that resemble the letters of a tag.
_ALIKE = str.maketrans("аеѕіһкпԝтгıαικητ", "aesihknwtriaiknt")
_FILLERS = frozenset("\u115f\u1160\u3164\uffa0")
_AROUND = "\ufeff" + "".join(filter(str.isspace, map(chr, range(0x3001))))

_FORMS = {
    ("<think>", "</think>", "<answer>", "</answer>"): ("reasoning", "answer"),
    ("<answer>", "</answer>"): ("answer",),
    ("<answer>", "</answer>", "<think>", "</think>"): ("answer", "reasoning"),
}


def strict_parts(text: str) -> dict[str, str] | None:
    """Parse a completion in strict form, in time linear in its length.

    The form is `<think>...</think><answer>...</answer>`, the same two parts in the other order, or the answer alone.
    White space and a byte order mark may surround the parts. Only white space may separate them. No part may contain
    a `think` or `answer` tag, or text that resembles one: in another case, with attributes, with spaces or invisible
    characters inside, or with look-alike or escaped brackets. A comment (`<!-- -->`) is not allowed anywhere.

    Args:
        text: The completion.

    Returns:
        Texts by name, in the order of the completion: "reasoning" and "answer", or only "answer", which is stripped.
        None if the completion is not in strict form.
    """
    text = text.strip(_AROUND)
    tags = list(_TAG.finditer(text))
    if len(tags) > 4:
        return None
    order = _FORMS.get(tuple(tag[0] for tag in tags))
    if order is None or tags[0].start() != 0 or tags[-1].end() != len(text):
        return None
    if len(tags) == 4 and text[tags[1].end() : tags[2].start()].strip():
        return None
    plain = plain_text(text)
    if _COMMENT in plain or sum(1 for _ in _LIKE_A_TAG.finditer(plain)) != len(tags):
        return None
    pairs = zip(order, tags[::2], tags[1::2], strict=True)
    parts = {name: text[opening.end() : closing.start()] for name, opening, closing in pairs}
    return parts | {"answer": parts["answer"].strip()}


def plain_text(text: str) -> str:
    """The text with look-alike characters replaced by plain ones, and without invisible ones, to search for tags."""
    return _ESCAPED.sub("<", text.translate(_PLAIN))


def strict_answer(text: str) -> str | None:
    """The answer, if the text is in strict form and its answer is a single capital letter; None otherwise.

    Boxes between the reasoning and the answer are ignored, because the box templates ask for them.
    """
    parts = strict_parts(without_boxes(text))
    return parts["answer"] if parts is not None and re.fullmatch("[A-Z]", parts["answer"]) else None


def in_form(completions: Sequence[Completion], order: tuple[str, ...]) -> list[float]:
    """Return 1.0 for each completion in strict form that has the parts in `order`, otherwise 0.0.

    No part may be empty: the reasoning needs at least `MIN_REASONING` letters, the answer a visible letter or digit.
    """
    parsed = (strict_parts(completion_text(completion)) for completion in completions)
    return [float(parts is not None and tuple(parts) == order and _is_filled(parts)) for parts in parsed]


def _is_filled(parts: dict[str, str]) -> bool:
    answered = any(character.isalnum() and character not in _FILLERS for character in parts["answer"])
    return answered and ("reasoning" not in parts or _letters(parts["reasoning"]) >= MIN_REASONING)


def _letters(text: str) -> int:
    """Count the visible letters. A letter of a wide script (ideographs, kana, Hangul) counts as two."""
    return sum(
        2 if unicodedata.east_asian_width(character) == "W" else 1
        for character in text
        if character.isalpha() and character not in _FILLERS
    )


class _Plain(dict[int, str]):
    """Table for `str.translate` that maps look-alike characters to plain ones and removes invisible characters.

    It translates one character at a time, which keeps the time linear.
    """

    def __missing__(self, code: int) -> str:
        character = chr(code)
        if character in _ANGLES:
            plain = "<"
        elif character.isspace():
            plain = " "
        else:
            plain = "".join(
                mark
                for mark in unicodedata.normalize("NFKD", character).casefold().translate(_ALIKE)
                if unicodedata.category(mark) not in ("Mn", "Me", "Cf", "Cc", "Cn", "Co", "Cs") and mark not in _FILLERS
            )
        self[code] = plain
        return plain


_PLAIN = _Plain()
