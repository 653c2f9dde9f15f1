"""A format reward for answers without reasoning, this project's own: 1 or 0."""

from collections.abc import Sequence
from typing import Any

from medvlm_r1.rewards.completion import Completion
from medvlm_r1.rewards.strict import in_form


def format_no_think(prompts: Sequence[Any], completions: Sequence[Completion], **columns: Any) -> list[float]:
    """Reward a completion that is one `<answer>...</answer>` with a letter or digit, in strict form.

    The strict form is that of `format_strict`: only white space or a byte order mark around the tags, and nothing
    inside that resembles a tag. It is not Med-R1's format reward without thinking, which was not found.

    Returns:
        One reward in {0.0, 1.0} per completion.
    """
    return in_form(completions, ("answer",))
