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


CALLS: list[list[str]] = []


def nothing(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
    """Pays for nothing."""
    return [0.0] * len(completions)


def one(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
    """Pays for everything alike."""
    return [1.0] * len(completions)


def infinite_at_third(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
    """Differs, and pays the first completion of the third call without bound; notes the samples of each call."""
    CALLS.append(list(columns["sample_id"]))
    rewards = [float(index % 3) for index in range(len(completions))]
    return [float("inf"), *rewards[1:]] if len(CALLS) == 3 else rewards


TROUBLE: Any = None


def nothing_in_trouble(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
    """Pays for nothing once the trouble of a test has begun."""
    return nothing(prompts, completions) if TROUBLE.begun else distinct_tokens(prompts, completions, **columns)


def one_in_trouble(prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
    """Pays for everything alike once the trouble of a test has begun."""
    return one(prompts, completions) if TROUBLE.begun else distinct_tokens(prompts, completions, **columns)
