"""`open_answer`: a reward in [0, 1] for answers to questions without options."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medvlm_r1.rewards.completion import Completion, completion_text
from medvlm_r1.rewards.open_questions.rules import score_open
from medvlm_r1.rewards.open_questions.words import Synonyms, read_synonyms
from medvlm_r1.rewards.strict import strict_parts


def open_answer(
    prompts: Sequence[Any],
    completions: Sequence[Completion],
    *,
    answer: Sequence[str],
    question: Sequence[str],
    options: Sequence[Sequence[str]],
    synonyms: Synonyms | None = None,
    **columns: Any,
) -> list[float | None]:
    """Reward an open answer by its agreement with the reference (`rewards.open_questions.rules`).

    The completion must be in strict form (`rewards.strict`), otherwise the reward is 0. The text of the reasoning is
    ignored. A question with options is not judged. This reward is not from the paper.

    Args:
        prompts: Ignored.
        completions: One completion per prompt.
        answer: Reference answer of each question.
        question: Text of each question.
        options: Option texts of each question; empty for an open question.
        synonyms: The synonym table; None for that of the package.
        **columns: Ignored.

    Returns:
        One reward in [0, 1] per completion; None for a question with options.

    Raises:
        ValueError: `completions` and a column differ in length.
    """
    table = synonyms or read_synonyms()
    rewards: list[float | None] = []
    for completion, reference, text, texts in zip(completions, answer, question, options, strict=True):
        parts = None if texts else strict_parts(completion_text(completion))
        score = 0.0 if parts is None else score_open(parts["answer"], reference, text, table).value
        rewards.append(None if texts else score)
    return rewards


def open_answer_with(synonyms: Path | str | None) -> Any:
    """The reward with a user's synonym file, or with the table of the package only.

    Raises:
        UserError: The file cannot be read or has a faulty line (see `read_synonyms`).
    """
    return functools.partial(open_answer, synonyms=read_synonyms(synonyms))
