"""A format reward without the paper's loopholes: 1 or 0."""

from collections.abc import Sequence
from typing import Any

from medvlm_r1.rewards.completion import Completion
from medvlm_r1.rewards.strict import in_form


def format_strict(prompts: Sequence[Any], completions: Sequence[Completion], **columns: Any) -> list[float]:
    """Reward a completion that has non-empty reasoning, a non-empty answer, and nothing else.

    The strict form (`rewards.strict`) is `<think>...</think>`, optional white space, `<answer>...</answer>`, with only
    white space or a byte order mark around them. The reasoning needs at least `MIN_REASONING` (5) letters. An ideograph
    counts as two letters; digits, punctuation and invisible characters do not count. The answer needs a letter or
    digit. A comment, or text inside the tags that resembles another tag, gives 0.

    Returns:
        One reward in {0.0, 1.0} per completion.
    """
    return in_form(completions, ("reasoning", "answer"))
