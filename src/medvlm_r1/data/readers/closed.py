"""Options for the closed questions of data sets with free-text answers.

The options must not depend on which one is correct; otherwise they would reveal the answer. All answers that mean yes
or no are therefore spelled alike, and the two words of a choice are taken from the question alone.
"""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

from medvlm_r1.data.importing.draft import Draft
from medvlm_r1.data.names import folded
from medvlm_r1.data.sample import LETTERS, MIN_OPTIONS

YES_NO = ("Yes", "No")
YES_NO_CHINESE = ("是", "否")

# The word that is used for yes or no may correlate with the answer, so all rows get the same pair of words.
_SPELLINGS = {
    **{"yes": "Yes", "no": "No"},
    **dict.fromkeys(("是", "是的", "对", "有", "有的"), "是"),
    **dict.fromkeys(("否", "不是", "不", "不对", "没有", "没", "无"), "否"),
}

_ARTICLE = r"(?:an?|the)\s+"
_CHOICE = re.compile(rf"(?:(\S+)\s+)?(?:({_ARTICLE}))?([\w-]+)\s+or\s+(?:{_ARTICLE})?([\w-]+)\s*\?$", re.IGNORECASE)
# Words that may precede the first choice. The choice is then a single word, not the end of a longer name.
_OPENER = re.compile(r"is|are|was|were|it|this|that|these|an?|the|on|in|more|from|by|.*[,:]", re.IGNORECASE)
_LIST = re.compile(rf"\b((?:[\w-]+,\s*)*[\w-]+),?\s+or\s+(?:{_ARTICLE})?([\w-]+)", re.IGNORECASE)
_CONTRASTS = [
    frozenset(line.split())
    for line in Path(__file__).with_name("contrasts.txt").read_text(encoding="utf-8").splitlines()
]


def closed_options(question: str, answer: str, *, choice: bool) -> tuple[tuple[str, ...], str]:
    """Find the options of a question that is answered by yes or no, or by one of two words that it names.

    Args:
        question: The question, in English or Chinese.
        answer: Its answer.
        choice: Whether the data set marks the question as closed, so that it may be a choice between two words.

    Returns:
        The options, in an order that does not depend on the answer, and the correct one in the same spelling. If the
        options are uncertain, no options and the unchanged answer.
    """
    bare = answer.strip().rstrip(".。").strip().casefold()
    words = _two_words(question) if choice else ()
    for options in (YES_NO, YES_NO_CHINESE, words):
        for option in options:
            if option.casefold() == _SPELLINGS.get(bare, bare).casefold():
                return options, option
    return (), answer


class ClosedQuestions:
    """Adds options to closed questions that are not answered by yes or no.

    With `choices`, the candidates of a question are the words that its text names, and all answers to the same question
    in the data set. Case, white space and closing punctuation are ignored. Two to ten candidates become the options of
    every closed question with that text, capitalized and in alphabetical order. No candidate is invented, and none
    depends on which answer is correct in the row.

    Attributes:
        kept_open: Closed questions without options: for each reason, the number of questions by answer.
    """

    def __init__(self, *, choices: bool) -> None:
        self.kept_open: dict[str, Counter[str]] = {}
        self._choices = choices
        self._candidates: dict[str, dict[str, str]] = {}

    def collected(self, draft: Draft) -> Draft:
        """First pass: collect the candidates of a row; return its draft unchanged."""
        if self._choices and _is_choice(draft):
            known = self._candidates.setdefault(_family(draft.question), {})
            for text in (*_named_words(draft.question), draft.answer.strip()):
                # Use one spelling and one style for all rows, so that the spelling of an option does not reveal its
                # origin.
                text = text[:1].upper() + text[1:]
                known[folded(text)] = min(text, known.get(folded(text), text))
        return draft

    def with_options(self, draft: Draft) -> Draft:
        """Second pass: add the options to the draft of a row, or count why the question stays without options."""
        if not _is_choice(draft):
            return draft
        known = self._candidates.get(_family(draft.question), {})
        answer = known.get(folded(draft.answer))
        if answer is not None and MIN_OPTIONS <= len(known) <= len(LETTERS):
            record = draft.record if answer == draft.answer else {"answer": draft.answer, **draft.record}
            return replace(draft, options=tuple(sorted(known.values(), key=str.casefold)), answer=answer, record=record)
        if not draft.options:
            if len(known) > len(LETTERS):
                reason = f"the set has more than {len(LETTERS)} answers to the question"
            elif self._choices:
                reason = "the question names no candidates, and the set has one answer to it"
            elif _two_words(draft.question):
                reason = "the answer is not one of the two words that the question names"
            else:
                reason = "the question does not end in two words to choose from"
            self.kept_open.setdefault(reason, Counter())[draft.answer.strip()] += 1
        return draft


def _is_choice(draft: Draft) -> bool:
    return draft.closed and draft.options not in (YES_NO, YES_NO_CHINESE)


def _family(question: str) -> str:
    return folded(question).rstrip(" ?？。")


def _named_words(question: str) -> tuple[str, ...]:
    """Words that a question names as candidates: two at its end, or a known contrast anywhere in it."""
    if words := _two_words(question):
        return words
    lists = list(_LIST.finditer(question))
    words = (*re.split(r",\s*", lists[0][1]), lists[0][2]) if len(lists) == 1 else ()
    lowered = {word.casefold() for word in words}
    return words if any(lowered <= contrast for contrast in _CONTRASTS) else ()


def _two_words(question: str) -> tuple[str, ...]:
    """X and Y of a question that ends in `X or Y?`; empty unless both are clearly single words."""
    text = " ".join(question.split())
    match = _CHOICE.search(text)
    if match is None or len(re.findall(r"\bor\b", text, re.IGNORECASE)) != 1:
        return ()
    before, article, first, second = (group or "" for group in match.groups())
    pair = {first.casefold(), second.casefold()}
    opened = article or _OPENER.fullmatch(before)
    certain = len(pair) == 2 and (opened or any(pair <= contrast for contrast in _CONTRASTS))
    return (first, second) if certain else ()
