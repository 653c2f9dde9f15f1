"""An accuracy reward that pays for an answer only so far as it depends on the image."""

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
    """Whether the completion gives the right answer to its own image, or does not give it to another item's.

    Half of the completions of a group see their question beside the image of another item (`training.counterfactual.other_image`). With a
    the letter answered, by the strict rule of `accuracy_strict`, and y the right one:

        own image:      r = 1 if a = y, else 0
        another's:      r = 1 if a is a letter of an option and a != y, else 0

    One baseline serves the whole group, so an answer that comes whatever is shown earns 1 on one half and 0 on the
    other, right or wrong: in sum over a row of each half, every answer given blindly is paid 1. What a policy takes
    from the text alone therefore moves it nowhere on average; what makes it say y to this image and not to another one
    does. It is paid for that from the first step, also where a shortcut already answers every question, which a gate on
    the answer to a blank image (`grounded_gate`) does not do. Not from the paper.

    A question whose answer is the same for every image has nothing to teach here. A question without an image is all
    own: `accuracy_strict`.

    Cost: no more completions; two prompts in place of one for each group.

    Args:
        prompts: Not looked at.
        completions: One per prompt.
        letter: The right letter of each.
        options: The options of each.
        own_image: Whether each saw the image that belongs to its question.
        **columns: Not looked at.

    Returns:
        One reward in {0.0, 1.0} per completion.

    Raises:
        ValueError: `completions` and a column differ in length.
    """
    rows = zip(completions, letter, options, own_image, strict=True)
    return [_score(completion_text(text), right, LETTERS[: len(given)], own) for text, right, given, own in rows]


def _score(text: str, right: str, letters: Sequence[str], own: bool) -> float:
    answered = strict_answer(text)
    if answered is None or answered not in letters:
        return 0.0
    return float((answered == right) == own)
