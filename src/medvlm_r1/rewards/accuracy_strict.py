"""An accuracy reward that pays only for what the evaluation counts: the right letter, alone, in the only answer tag."""

from collections.abc import Sequence
from typing import Any

from medvlm_r1.dialogue.response import answer_tags, strict_letter
from medvlm_r1.rewards.completion import Completion, completion_text


def accuracy_strict(
    prompts: Sequence[Any], completions: Sequence[Completion], *, letter: Sequence[str], **columns: Any
) -> list[float]:
    """Whether the completion answers once, with the right letter and nothing else.

    Departs from the paper's reward in three ways: no half reward for a letter in other text, lower-case letters and
    tags do not count (the evaluation does not read them), and a second answer tag, opened or closed, gives nothing, so
    that several answers cannot be offered.

    Returns:
        One reward in {0.0, 1.0} per completion.

    Raises:
        ValueError: `completions` and `letter` differ in length.
    """
    return [_score(completion_text(c), right) for c, right in zip(completions, letter, strict=True)]


def _score(text: str, right: str) -> float:
    return float(answer_tags(text) == (1, 1) and strict_letter(text) == right)
