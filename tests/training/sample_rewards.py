"""Rewards for tests, named by their dotted path."""

from typing import Any

SEEN_IDS: list[list[int]] = []
SEEN_SAMPLES: list[str] = []


def distinct_tokens(
    prompts: list[Any], completions: list[Any], *, completion_ids: list[list[int]], **columns: Any
) -> list[float]:
    """Differs from completion to completion even for random weights; notes what it saw."""
    SEEN_IDS.extend(completion_ids)
    SEEN_SAMPLES.extend(columns["sample_id"])
    return [float(sum(ids) % 7) for ids in completion_ids]
