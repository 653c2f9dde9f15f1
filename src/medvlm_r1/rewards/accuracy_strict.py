"""An accuracy reward for the right letter, alone, in a completion of strict form: 1 or 0."""

from collections.abc import Sequence
from typing import Any

from medvlm_r1.rewards.completion import Completion, completion_text
from medvlm_r1.rewards.strict import strict_answer


def accuracy_strict(
    prompts: Sequence[Any], completions: Sequence[Completion], *, letter: Sequence[str], **columns: Any
) -> list[float]:
    """Whether the completion answers once, with the right letter and nothing else.

    The completion has to be in strict form (`rewards.strict`): one answer tag, with or without one reasoning before or
    after it, and only white space or a byte order mark around them. So text before or after the tags, a second tag in
    any spelling and a comment give 0. So do lower-case letters and tags, which the evaluation does not read, and a
    letter in other text. What the reasoning says is not looked at; `format_strict` wants one.

    Returns:
        One reward in {0.0, 1.0} per completion.

    Raises:
        ValueError: `completions` and `letter` differ in length.
    """
    return [
        float(strict_answer(completion_text(completion)) == right)
        for completion, right in zip(completions, letter, strict=True)
    ]
