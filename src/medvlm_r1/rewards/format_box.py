"""A format reward for reasoning, boxes and answer: 1 or 0."""

import re
from collections.abc import Sequence
from typing import Any

from medvlm_r1.prompts.boxes import Size, parse_boxes, without_boxes
from medvlm_r1.rewards.completion import Completion, completion_text
from medvlm_r1.rewards.strict import in_form, plain_text

_LIKE_A_BOX = re.compile(r"<[\s/]*+box")


def format_box(
    prompts: Sequence[Any],
    completions: Sequence[Completion],
    *,
    shown_size: Sequence[Size | None] | None = None,
    **columns: Any,
) -> list[float]:
    """Reward a completion that has non-empty reasoning, any number of boxes, a non-empty answer, and nothing else.

    The form is `<think>...</think>`, then no, one or several well-formed boxes (`prompts.boxes`), then
    `<answer>...</answer>`, with only white space between them. Without the boxes, the completion must satisfy
    `format_strict`. A malformed box, a box at another place, or text that resembles the tag of a box gives 0.

    Args:
        prompts: Ignored.
        completions: One completion per prompt.
        shown_size: Width and height of each resized image if boxes are written in its pixels; None for coordinates from
            0 to 1000.
        **columns: Ignored.

    Returns:
        One reward in {0.0, 1.0} per completion.

    Raises:
        ValueError: `completions` and `shown_size` differ in length.
    """
    sizes = [None] * len(completions) if shown_size is None else shown_size
    return [float(_in_form(completion_text(c), size)) for c, size in zip(completions, sizes, strict=True)]


def _in_form(text: str, shown_size: Size | None) -> bool:
    if parse_boxes(text, shown_size).malformed:
        return False
    text = without_boxes(text)
    return in_form([text], ("reasoning", "answer")) == [1.0] and not _LIKE_A_BOX.search(plain_text(text))
