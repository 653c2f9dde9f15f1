"""A reward for an answer that matches the conclusion of its reasoning."""

from collections.abc import Sequence
from typing import Any

from medvlm_r1.prompts.boxes import without_boxes
from medvlm_r1.prompts.conclusion import contradicts
from medvlm_r1.rewards.completion import Completion, completion_text
from medvlm_r1.rewards.strict import strict_parts


def consistent(
    prompts: Sequence[Any], completions: Sequence[Completion], *, options: Sequence[Sequence[str]], **columns: Any
) -> list[float]:
    """Reward an answer that matches the conclusion of its reasoning.

    The reward is 1 if the completion is in strict form (`rewards.strict`) and its answer letter matches the option that
    its reasoning concludes (`prompts.conclusion`). Otherwise it is 0. Reasoning without a conclusion therefore scores
    0. Boxes between reasoning and answer are ignored. The reward ignores which answer is correct, so combine it with an
    accuracy reward. On its own, it rewards any option, right or wrong, as long as reasoning and answer agree. It needs
    no additional forward pass.

    Returns:
        One reward in {0.0, 1.0} per completion.

    Raises:
        ValueError: `completions` and `options` differ in length.
    """
    rewards = []
    for completion, texts in zip(completions, options, strict=True):
        parts = strict_parts(without_boxes(completion_text(completion))) or {}
        rewards.append(float(contradicts(parts.get("reasoning"), parts.get("answer"), texts) is False))
    return rewards
