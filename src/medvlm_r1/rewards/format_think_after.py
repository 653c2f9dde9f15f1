"""A format reward for answers with the reasoning after them, this project's own: 1 or 0."""

import re
from collections.abc import Sequence
from typing import Any

from medvlm_r1.rewards.completion import Completion, completion_text

_FORM = re.compile(r"<answer>[^<>]*</answer>\s*<think>[^<>]*</think>")


def format_think_after(prompts: Sequence[Any], completions: Sequence[Completion], **columns: Any) -> list[float]:
    """Whether the whole completion is `<answer>...</answer>`, white space, `<think>...</think>`, with no tag inside.

    Not Med-R1's, whose format reward for thinking afterwards was not found. Stricter than the paper's `format_paper`:
    no tag may nest in another.

    Args:
        prompts: Not looked at.
        completions: One per prompt.
        **columns: Not looked at.

    Returns:
        One reward in {0.0, 1.0} per completion.
    """
    return [float(_FORM.fullmatch(completion_text(completion)) is not None) for completion in completions]
