"""A format reward for answers with the reasoning after them, this project's own: 1 or 0."""

from collections.abc import Sequence
from typing import Any

from medvlm_r1.rewards.completion import Completion
from medvlm_r1.rewards.strict import in_form


def format_think_after(prompts: Sequence[Any], completions: Sequence[Completion], **columns: Any) -> list[float]:
    """Reward a completion that is `<answer>...</answer>`, white space, `<think>...</think>`, in strict form.

    The strict form is that of `format_strict`, with the same least number of letters in the reasoning. Not Med-R1's,
    whose format reward for thinking afterwards was not found.

    Returns:
        One reward in {0.0, 1.0} per completion.
    """
    return in_form(completions, ("answer", "reasoning"))
