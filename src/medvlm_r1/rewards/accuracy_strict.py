"""An accuracy reward for the correct letter alone in a completion of strict form: 1 or 0."""

from collections.abc import Sequence
from typing import Any

from medvlm_r1.rewards.completion import Completion, completion_text
from medvlm_r1.rewards.strict import strict_answer


def accuracy_strict(
    prompts: Sequence[Any], completions: Sequence[Completion], *, letter: Sequence[str], **columns: Any
) -> list[float]:
    """Reward a single answer that is the correct letter and nothing else.

    The completion has to be in strict form (`rewards.strict`): one answer tag, with or without one reasoning before or
    after it, and only white space or a byte order mark around them. Text outside the tags, a second tag in any spelling
    and a comment give 0. Lower-case letters and tags, which the evaluation does not parse, and a letter within other
    text also give 0. The reasoning is ignored; `format_strict` requires one.

    Returns:
        One reward in {0.0, 1.0} per completion.

    Raises:
        ValueError: `completions` and `letter` differ in length.
    """
    return [
        float(strict_answer(completion_text(completion)) == right)
        for completion, right in zip(completions, letter, strict=True)
    ]
