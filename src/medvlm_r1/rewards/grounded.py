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
    """Reward the correct answer to the item's own image, and any other answer to another item's image.

    Half of the completions of a group see another item's image (`training.counterfactual.other_image`). Let a be the
    letter answered, by the strict rule of `accuracy_strict`, and y the correct letter:

        own image:      r = 1 if a = y, else 0
        other image:    r = 1 if a is a letter of an option and a != y, else 0

    The whole group shares one baseline. An answer that ignores the image earns 1 on one half and 0 on the other,
    whether it is correct or not. What a policy reads from the text alone therefore gets no gradient on average. What
    ties the answer to the image does, from the first step, also where a shortcut already answers every question. Not
    from the paper.

    A question whose answer is the same for every image teaches nothing here. A question without an image always counts
    as own image, which makes the reward `accuracy_strict`.

    Cost: no additional completions; two prompts instead of one for each group.

    Args:
        prompts: Ignored.
        completions: One per prompt.
        letter: The correct letter of each.
        options: The options of each.
        own_image: Whether each completion saw the image of its own question.
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
