"""An accuracy reward that pays only where the policy, shown a blank image, does not give the right answer too."""

from collections.abc import Sequence
from typing import Any

from medvlm_r1.rewards.accuracy_strict import accuracy_strict
from medvlm_r1.rewards.completion import Completion


def grounded_gate(
    prompts: Sequence[Any],
    completions: Sequence[Completion],
    *,
    letter: Sequence[str],
    blank_letter: Sequence[str | None],
    **columns: Any,
) -> list[float]:
    """Whether the completion is right where the same policy, shown a blank image, is not.

    With a the answer to the real image, b the answer to the blank one and y the right letter:

        r = 1 if a = y and b != y, else 0

    An answer that the question's text gives away, or that the policy would have guessed, earns nothing. Within a group
    all completions share b, so a question answered right without its image teaches nothing at that step: the gradient
    comes from the questions that text alone does not solve for this policy, and which those are changes with it. Where
    there is no blank answer (nothing parsed, or a question without an image, for which none is asked) it is
    `accuracy_strict`.

    It stops the learning of a shortcut and does not undo it: where the blank answer is right, all rewards of the group
    are 0. `grounded` does (docs/grounded.md compares them).

    Cost: one more completion for each prompt and generation, not for each completion (`training.counterfactual.blank_image`).

    Args:
        prompts: Not looked at.
        completions: One per prompt.
        letter: The right letter of each.
        blank_letter: The policy's letter for the same question with a blank image; None without one.
        **columns: Not looked at.

    Returns:
        One reward in {0.0, 1.0} per completion.

    Raises:
        ValueError: `completions`, `letter` and `blank_letter` differ in length.
    """
    right = accuracy_strict(prompts, completions, letter=letter)
    return [reward * (blank != truth) for reward, truth, blank in zip(right, letter, blank_letter, strict=True)]
