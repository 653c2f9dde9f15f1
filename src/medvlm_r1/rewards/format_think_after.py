"""This project's own format reward for reasoning after the answer: 1 or 0."""

from collections.abc import Sequence
from typing import Any

from medvlm_r1.rewards.completion import Completion
from medvlm_r1.rewards.strict import in_form


def format_think_after(prompts: Sequence[Any], completions: Sequence[Completion], **columns: Any) -> list[float]:
    """Reward a completion in strict form that is `<answer>...</answer>`, white space, `<think>...</think>`.

    The rules are those of `format_strict`, with the same minimum number of letters in the reasoning. This is not
    Med-R1's format reward for thinking after the answer, whose code was not found.

    Returns:
        One reward in {0.0, 1.0} per completion.
    """
    return in_form(completions, ("answer", "reasoning"))
