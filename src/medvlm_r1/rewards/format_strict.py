"""A format reward without the paper's loopholes: 1 or 0."""

import re
from collections.abc import Sequence
from typing import Any

from medvlm_r1.dialogue.response import parse_response
from medvlm_r1.rewards.completion import Completion, completion_text

# Anything a reader would take for one of the tags, "<answer >" and "<THINK/>" too.
_TAG = re.compile(r"<\s*(?:/\s*)?(?:think|answer)\b[^<>]*>", re.IGNORECASE)
_WANTED = ["<think>", "</think>", "<answer>", "</answer>"]
_WORD = re.compile(r"\w")


def format_strict(prompts: Sequence[Any], completions: Sequence[Completion], **columns: Any) -> list[float]:
    """Whether the completion is one reasoning and one answer, both with something in them, and nothing else.

    Departs from the paper's reward in three ways: an empty tag, or one that holds no letter or digit, gives 0; so does
    any further tag, nested or after the answer; white space around the whole is no fault.

    Returns:
        One reward in {0.0, 1.0} per completion.
    """
    return [_score(completion_text(completion).strip()) for completion in completions]


def _score(text: str) -> float:
    if _TAG.findall(text) != _WANTED:
        return 0.0
    found = parse_response(text)
    filled = all(_WORD.search(part or "") for part in (found.reasoning, found.answer))
    return float(found.well_formed and filled)
