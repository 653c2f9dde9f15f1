"""This project's own format reward for answers without reasoning: 1 or 0."""

from collections.abc import Sequence
from typing import Any

from medvlm_r1.rewards.completion import Completion
from medvlm_r1.rewards.strict import in_form


def format_no_think(prompts: Sequence[Any], completions: Sequence[Completion], **columns: Any) -> list[float]:
    """Reward a completion in strict form that is one `<answer>...</answer>` with a letter or digit in it.

    As for `format_strict`, only white space or a byte order mark may surround the tags, and no text inside them may
    resemble a tag. This is not Med-R1's format reward for answers without thinking, whose code was not found.

    Returns:
        One reward in {0.0, 1.0} per completion.
    """
    return in_form(completions, ("answer",))
