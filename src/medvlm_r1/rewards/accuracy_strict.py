"""An accuracy reward for completions in strict form whose answer is the correct letter alone: 1 or 0."""

from collections.abc import Sequence
from typing import Any

from medvlm_r1.rewards.completion import Completion, completion_text
from medvlm_r1.rewards.strict import strict_answer


def accuracy_strict(
    prompts: Sequence[Any], completions: Sequence[Completion], *, letter: Sequence[str], **columns: Any
) -> list[float]:
    """Reward a completion in strict form whose answer is the correct letter and nothing else.

    The strict form (`rewards.strict`) is one `<answer>...</answer>`, optionally with one `<think>...</think>` before or
    after it, and only white space or a byte order mark around them. Text outside the tags, a second tag in any
    spelling, or a comment gives 0. A lower-case letter gives 0, because the evaluation does not parse it; tags in
    another case and a letter within other text also give 0. The text of the reasoning, and boxes between it and the
    answer, are ignored. Use `format_strict` to require reasoning.

    Returns:
        One reward in {0.0, 1.0} per completion.

    Raises:
        ValueError: `completions` and `letter` differ in length.
    """
    return [
        float(strict_answer(completion_text(completion)) == right)
        for completion, right in zip(completions, letter, strict=True)
    ]
