"""Rewards for tests, named by their dotted path."""

SEEN_IDS = []
SEEN_SAMPLES = []


def distinct_tokens(prompts, completions, *, completion_ids, **columns):
    """Differs from completion to completion even for random weights; notes what it saw."""
    SEEN_IDS.extend(completion_ids)
    SEEN_SAMPLES.extend(columns["sample_id"])
    return [float(sum(ids) % 7) for ids in completion_ids]


CALLS = []


def nothing(prompts, completions, **columns):
    """Pays for nothing."""
    return [0.0] * len(completions)


def one(prompts, completions, **columns):
    """Pays for everything alike."""
    return [1.0] * len(completions)


def infinite_at_third(prompts, completions, **columns):
    """Differs, and pays the first completion of the third call without bound; notes the samples of each call."""
    CALLS.append(list(columns["sample_id"]))
    rewards = [float(index % 3) for index in range(len(completions))]
    return [float("inf"), *rewards[1:]] if len(CALLS) == 3 else rewards


TROUBLE = None


def nothing_in_trouble(prompts, completions, **columns):
    """Pays for nothing once the trouble of a test has begun."""
    return nothing(prompts, completions) if TROUBLE.begun else distinct_tokens(prompts, completions, **columns)


def one_in_trouble(prompts, completions, **columns):
    """Pays for everything alike once the trouble of a test has begun."""
    return one(prompts, completions) if TROUBLE.begun else distinct_tokens(prompts, completions, **columns)
