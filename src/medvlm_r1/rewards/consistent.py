"""A reward for an answer that follows from the reasoning written before it."""

from collections.abc import Sequence
from typing import Any

from medvlm_r1.prompts.conclusion import contradicts
from medvlm_r1.rewards.completion import Completion, completion_text
from medvlm_r1.rewards.strict import strict_parts


def consistent(
    prompts: Sequence[Any], completions: Sequence[Completion], *, options: Sequence[Sequence[str]], **columns: Any
) -> list[float]:
    """Reward an answer that is the option which the reasoning concludes.

    1 if the completion is in strict form (`rewards.strict`) and the one option that its reasoning concludes
    (`prompts.conclusion`) is the letter answered. 0 otherwise, also if the reasoning concludes nothing. It ignores
    which answer is correct, so combine it with an accuracy reward. Alone it rewards any option that is stated twice.
    It needs no forward pass.

    Returns:
        One reward in {0.0, 1.0} per completion.

    Raises:
        ValueError: `completions` and `options` differ in length.
    """
    rewards = []
    for completion, texts in zip(completions, options, strict=True):
        parts = strict_parts(completion_text(completion))
        rewards.append(float(parts is not None and contradicts(parts.reasoning, parts.answer, texts) is False))
    return rewards
