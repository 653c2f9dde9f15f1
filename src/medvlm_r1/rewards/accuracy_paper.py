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
    """Reward an answer tag that contains the correct letter and no other letter from A to J.

    The text of the first `<answer>...</answer>` (tags in any case, across lines) is upper-cased and searched for the
    letters A to J, also inside words. The reward is 1.0 if the answer is the correct letter alone. It is 0.5 if the
    correct letter is the only match in a longer text, and 0.0 otherwise. So `B.` gives 0.5, but `B) Lung` gives 0.0
    because of its G.

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
