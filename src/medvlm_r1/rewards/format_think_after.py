"""A format reward for answers with the reasoning after them, this project's own: 1 or 0."""

import re
from collections.abc import Sequence
from typing import Any

from medvlm_r1.rewards.completion import Completion, in_form

_FORM = re.compile(r"<answer>[^<>\w]*\w[^<>]*</answer>\s*<think>[^<>\w]*\w[^<>]*</think>")


def format_think_after(prompts: Sequence[Any], completions: Sequence[Completion], **columns: Any) -> list[float]:
    """Whether the whole completion is `<answer>...</answer>`, white space, `<think>...</think>`.

    Both hold a letter or digit and no tag.

    Not Med-R1's, whose format reward for thinking afterwards was not found. Stricter than the paper's `format_paper`:
    no tag may be empty or nest in another.

    Returns:
        One reward in {0.0, 1.0} per completion.
    """
    return in_form(completions, _FORM)
