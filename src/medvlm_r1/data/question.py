"""The rules for a usable question: one set for import, check, training, evaluation and `ask`."""

import re
import unicodedata
from collections.abc import Sequence

from medvlm_r1.data.names import folded

LETTERS = "ABCDEFGHIJ"
MIN_OPTIONS = 2

# Special tokens of the supported model families, in the question a user writes. A tokenizer would obey them.
_CONTROL_TOKEN = re.compile(
    r"<\|\w+\|>|</?s>|<(?:bos|eos|pad|unk|image|video|audio|img|IMG_CONTEXT|image_soft_token|fake_token_around_image"
    r"|(?:start|end)_of_(?:image|turn)|end_of_utterance|global-img)>|</?img>|\[/?(?:INST|IMG|IMG_BREAK|IMG_END)\]"
)
_PICTURE_FOR_TEXT = re.compile(r"\s*<image \d+>\s*")
_MISSING_VALUES = ("nan", "<na>", "nat")


def control_token(text: str) -> str | None:
    """The first control token in a text, such as `<|image_pad|>` or `<image>`; None without."""
    match = _CONTROL_TOKEN.search(text) if "<" in text or "[" in text else None
    return match[0] if match else None


def text_fault(name: str, value: object, *, needed: bool = True) -> str | None:
    """What is wrong with a text; None for a usable one.

    Args:
        name: What the text is, for the message.
        value: The text.
        needed: Whether it must not be empty.
    """
    if not isinstance(value, str):
        return f"{name} must be text, not {value!r}"
    if needed and not is_visible(value):
        return f"{name} holds an empty text"
    if value.strip().casefold() in _MISSING_VALUES:
        return f"{name} holds {value!r}, a missing value written as text; leave it empty or give the value"
    if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
        return f"{name} holds half a character (a lone surrogate): {value!r}"
    return None


def is_visible(text: str) -> bool:
    """Whether a text has a character that can be seen: not only white space, zero-width or control characters."""
    if text.isprintable():
        return bool(text.strip())
    return any(not character.isspace() and unicodedata.category(character)[0] != "C" for character in text)


def question_faults(question: object, options: Sequence[object]) -> list[str]:
    """Everything that is wrong with a question and its options.

    Args:
        question: The question alone.
        options: Option texts without letters; empty for an open question.

    Returns:
        One phrase for each fault, empty for a usable question. Options count as repeated when they differ in letter
        case, white space or a closing full stop only: no answer could tell them apart.
    """
    lettered = [
        (f"option {LETTERS[index] if index < len(LETTERS) else index + 1}", o) for index, o in enumerate(options)
    ]
    faults = [text_fault(name, text) for name, text in (("question", question), *lettered)]
    problems = [fault for fault in faults if fault]
    texts = [(name, option) for (name, option), fault in zip(lettered, faults[1:], strict=True) if not fault]
    if 0 < len(options) < MIN_OPTIONS:
        problems.append(f"one option ({options[0]!r}); a question needs at least two, or none if it is open")
    if len(options) > len(LETTERS):
        problems.append(f"{len(options)} options; at most {len(LETTERS)} (A to J) can be lettered")
    spellings: dict[str, tuple[str, object]] = {}
    for name, option in texts:
        first, same = spellings.setdefault(folded(str(option)), (name, option))
        if first != name:
            problems.append(f"{first} and {name} are the same ({same!r} and {option!r}); make each option different")
            break
    for name, text in (("question", question), *texts):
        if isinstance(text, str) and (token := control_token(text)):
            problems.append(f"{name} holds the control token {token!r}, which a model would obey; remove it")
    if any(_PICTURE_FOR_TEXT.fullmatch(str(option)) for _, option in texts):
        problems.append("an option is an image, not a text; such questions cannot be used")
    return problems
