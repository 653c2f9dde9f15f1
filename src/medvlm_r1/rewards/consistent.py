"""A reward for an answer that follows from the reasoning written before it."""

from collections.abc import Sequence
from typing import Any

from medvlm_r1.dialogue.conclusion import contradicts
from medvlm_r1.dialogue.response import answer_tags, parse_response
from medvlm_r1.rewards.completion import Completion, completion_text


def consistent(
    prompts: Sequence[Any], completions: Sequence[Completion], *, options: Sequence[Sequence[str]], **columns: Any
) -> list[float]:
    """Whether the reasoning concludes the option that is answered.

    1 if the one option that the reasoning concludes (`dialogue.conclusion`) is the strict letter of the answer, else 0:
    also when the reasoning concludes nothing, and when there is a second answer tag, opened or closed. It says nothing
    about being right, so it belongs beside an accuracy reward; alone it would pay for any option said twice. It costs
    no forward pass.

    Returns:
        One reward in {0.0, 1.0} per completion.

    Raises:
        ValueError: `completions` and `options` differ in length.
    """
    rewards = []
    for completion, texts in zip(completions, options, strict=True):
        text = completion_text(completion)
        found = parse_response(text, texts)
        agrees = contradicts(found.reasoning, found.letter, texts) is False
        rewards.append(float(agrees and answer_tags(text) == (1, 1)))
    return rewards
