"""Closed questions of the open-answer sets made into questions with options.

Whether a question gets options, and which, must not hang on which of them is right, or the options would tell the
answer. So all answers that mean yes or no are written alike, and a choice is read from the question alone.
"""

import re

YES_NO = ("Yes", "No")
YES_NO_CHINESE = ("是", "否")

_ENGLISH = {"yes": "Yes", "no": "No"}
# Which word for yes or no an answer uses goes with what it says; one pair for all gives nothing away.
_CHINESE = dict.fromkeys(("是", "是的", "对", "有", "有的"), "是") | dict.fromkeys(
    ("否", "不是", "不", "不对", "没有", "没", "无"), "否"
)

_ARTICLE = r"(?:an?|the)\s+"
_CHOICE = re.compile(rf"(?:(\S+)\s+)?(?:({_ARTICLE}))?([\w-]+)\s+or\s+(?:{_ARTICLE})?([\w-]+)\s*\?$", re.IGNORECASE)
# The word before the first choice: after one of these the choice is that one word, and not the end of a longer name.
_OPENERS = frozenset(
    ["is", "are", "was", "were", "it", "this", "that", "these", "a", "an", "the", "on", "in", "more", "from", "by"]
)
_CONTRASTS = (
    {"left", "right"},
    {"male", "female"},
    {"man", "woman"},
    {"upper", "lower"},
    {"axial", "coronal", "sagittal", "transverse", "horizontal"},
    {"anterior", "posterior"},
    {"superior", "inferior"},
    {"medial", "lateral"},
    {"ct", "mri", "x-ray", "xray", "ultrasound", "pet"},
    {"t1", "t2", "flair"},
    {"ap", "pa"},
    {"hyperdense", "hypodense", "isodense"},
    {"hyperintense", "hypointense", "isointense"},
    {"unilateral", "bilateral"},
    {"benign", "malignant"},
    {"normal", "abnormal"},
    {"acute", "chronic"},
    {"supine", "prone", "erect"},
)


def closed_options(question: str, answer: str, *, choice: bool) -> tuple[tuple[str, ...], str]:
    """Options of a question that is answered by yes or no, or by one of two words it names.

    Args:
        question: The question, English or Chinese.
        answer: Its answer.
        choice: Whether the set calls the question closed, so that it may be a choice between two words.

    Returns:
        The options in an order that does not depend on the answer, and the right one as it is spelt there; no options
        and the answer as it was when they cannot be read for sure.
    """
    bare = answer.strip().rstrip(".。").strip()
    if bare.lower() in _ENGLISH:
        return YES_NO, _ENGLISH[bare.lower()]
    if bare in _CHINESE:
        return YES_NO_CHINESE, _CHINESE[bare]
    words = _two_words(question) if choice else ()
    for word in words:
        if word.casefold() == bare.casefold():
            return words, word
    return (), answer


def _two_words(question: str) -> tuple[str, ...]:
    """X and Y of `... X or Y?`, both single words, where nothing else can be meant."""
    text = " ".join(question.split())
    match = _CHOICE.search(text)
    if match is None or len(re.findall(r"\bor\b", text, re.IGNORECASE)) != 1:
        return ()
    before, article, first, second = match.groups()
    pair = {first.casefold(), second.casefold()}
    if len(pair) != 2:
        return ()
    opened = article or (before or "").casefold() in _OPENERS or (before or "").endswith((",", ":"))
    if opened or any(pair <= contrast for contrast in _CONTRASTS):
        return first, second
    return ()
