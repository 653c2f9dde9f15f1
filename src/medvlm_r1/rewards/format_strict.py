"""A format reward without the paper's loopholes: 1 or 0."""

from collections.abc import Sequence
from typing import Any

from medvlm_r1.rewards.completion import Completion
from medvlm_r1.rewards.strict import in_form


def format_strict(prompts: Sequence[Any], completions: Sequence[Completion], **columns: Any) -> list[float]:
    """Reward a completion that is one non-empty reasoning and one non-empty answer, and nothing else.

    The strict form (`rewards.strict`): `<think>...</think>`, white space, `<answer>...</answer>`, with only white space
    or a byte order mark around them. The reasoning has at least `MIN_REASONING` (5) letters, an ideograph counted as
    two; digits, punctuation and invisible characters do not count. The answer has a letter or digit. Text inside
    that resembles another tag, and any comment, gives 0.

    Returns:
        One reward in {0.0, 1.0} per completion.
    """
    return in_form(completions, ("reasoning", "answer"))
