"""MedVLM-R1's format reward (arXiv 2502.19634, and its released training script): 1 or 0."""

from collections.abc import Sequence
from typing import Any

from medvlm_r1.prompts.parser import is_well_formed
from medvlm_r1.rewards.completion import Completion, completion_text


def format_paper(prompts: Sequence[Any], completions: Sequence[Completion], **columns: Any) -> list[float]:
    r"""Reward a completion that is `<think>...</think>`, optional white space, `<answer>...</answer>`.

    The completion must fully match `<think>.*?</think>\s*<answer>.*?</answer>`, where dots match newlines. A leading
    space or a trailing newline gives 0.0. Empty tags, or further tags inside the outer ones, still give 1.0.

    Returns:
        One reward in {0.0, 1.0} per completion.
    """
    return [float(is_well_formed(completion_text(completion))) for completion in completions]
