"""MedVLM-R1's accuracy reward (arXiv 2502.19634, and its released training script): 1, 0.5 or 0."""

import re
from collections.abc import Sequence
from typing import Any

from medvlm_r1.prompts.parser import answer_text
from medvlm_r1.rewards.completion import Completion, completion_text

_LETTER = re.compile("[A-J]")


def accuracy_paper(
    prompts: Sequence[Any], completions: Sequence[Completion], *, letter: Sequence[str], **columns: Any
) -> list[float]:
    """Reward the correct letter in the answer tag, and no other letter.

    The text of the first `<answer>...</answer>` (tags in any case, across lines) is upper-cased and searched for A to
    J, also inside words. If the correct letter is the only match, the reward is 1.0 without further text and 0.5 with
    it. Otherwise it is 0.0. So `B.` gives 0.5, but `B) Lung` gives 0.0 because of its G.

    Returns:
        One reward in {0.0, 0.5, 1.0} per completion.

    Raises:
        ValueError: `completions` and `letter` differ in length.
    """
    return [_score(completion_text(c), right) for c, right in zip(completions, letter, strict=True)]


def _score(text: str, right: str) -> float:
    answer = (answer_text(text) or "").upper()
    if _LETTER.findall(answer) != [right]:
        return 0.0
    return 1.0 if answer.strip() == right else 0.5
