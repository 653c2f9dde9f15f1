"""`grounded`: an accuracy reward for answers that depend on the image."""

from collections.abc import Sequence
from typing import Any

from medvlm_r1.data.sample import LETTERS
from medvlm_r1.rewards.completion import Completion, completion_text
from medvlm_r1.rewards.strict import strict_answer


def grounded(
    prompts: Sequence[Any],
    completions: Sequence[Completion],
    *,
    letter: Sequence[str],
    options: Sequence[Sequence[str]],
    own_image: Sequence[bool],
    **columns: Any,
) -> list[float]:
    """Reward the correct letter for the item's own image, and any other option letter for another item's image.

    Half of the completions of a group are generated with another item's image (`training.counterfactual`).
    Let a be the answered letter, by the strict rule of `accuracy_strict`, and y the correct letter:

        own image:      r = 1 if a = y, otherwise 0
        other image:    r = 1 if a is the letter of an option and a != y, otherwise 0

    The whole group shares one baseline, its mean reward. An answer that ignores the image has reward 1 in one half of
    the group and 0 in the other half, whether it is correct or not. On average, the use of text alone therefore gets no
    gradient. The use of the image gets a gradient from the first step, even if a shortcut in the text already answers
    every question. This reward is not from the paper.

    A question whose answer is the same for every image gives no training signal. A question without an image counts as
    generated with its own image, so its reward equals that of `accuracy_strict`.

    Cost: no additional completions, but two prompts instead of one for each group.

    Args:
        prompts: Ignored.
        completions: One completion per prompt.
        letter: Correct letter of each question.
        options: Option texts of each question.
        own_image: Whether each completion was generated with the image of its own question.
        **columns: Ignored.

    Returns:
        One reward in {0.0, 1.0} per completion.

    Raises:
        ValueError: `completions` and a column differ in length.
    """
    rewards = []
    for completion, right, texts, own in zip(completions, letter, options, own_image, strict=True):
        answered = strict_answer(completion_text(completion))
        offered = answered is not None and answered in LETTERS[: len(texts)]
        rewards.append(float(offered and (answered == right) == own))
    return rewards
