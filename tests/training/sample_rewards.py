"""Rewards for tests, named by their dotted path."""

import zlib
from types import SimpleNamespace

SEEN = []
"""What `note` was given: for each scored completion, its prompt and columns. Every test begins with an empty list."""
TROUBLE = SimpleNamespace(begun=False)


def note(prompts, **columns):
    lists = {name: values for name, values in columns.items() if isinstance(values, list)}
    SEEN.extend({"prompt": prompt, **{name: lists[name][row] for name in lists}} for row, prompt in enumerate(prompts))


def distinct_tokens(prompts, completions, *, completion_ids, **columns):
    """Differs from completion to completion even for random weights; notes what it saw."""
    note(prompts, completion_ids=completion_ids, **columns)
    return [float(sum(ids) % 7) for ids in completion_ids]


def nothing(prompts, completions, **columns):
    return [0.0] * len(completions)


def equal(prompts, completions, **columns):
    return [1.0] * len(completions)


def infinite_at_third(prompts, completions, **columns):
    """Differs, and pays the first completion of the third call without bound; notes what it saw."""
    note(prompts, **columns)
    rewards = [float(index % 3) for index in range(len(completions))]
    return [float("inf"), *rewards[1:]] if len(SEEN) == 3 * len(completions) else rewards


def nothing_in_trouble(prompts, completions, **columns):
    return (nothing if TROUBLE.begun else distinct_tokens)(prompts, completions, **columns)


def equal_in_trouble(prompts, completions, **columns):
    return (equal if TROUBLE.begun else distinct_tokens)(prompts, completions, **columns)


# Rewards that ask for the policy's answers to blank images.


def unlike_blank(completions, *, blank_letter, **columns):
    """1 where the blank answer is not the correct letter."""
    return [float(blank != letter) for blank, letter in zip(blank_letter, columns["letter"], strict=True)]


def coded_blank(completions, *, blank_letter, **columns):
    """The blank answer as a number."""
    return [code(blank) for blank in blank_letter]


def code(text):
    return float(zlib.crc32(str(text).encode()) % 1000)


def length_by_blank(completion_ids, *, blank_letter, **columns):
    """Pays for length, and how well, the blank answer decides."""
    return [len(ids) * (1 + code(text) % 5) for ids, text in zip(completion_ids, blank_letter, strict=True)]


# Rewards that ask for half of a group beside another's image.


def own(prompts, completions, *, own_image, **columns):
    """Pays for one's own image; notes what it saw."""
    note(prompts, own_image=own_image, **columns)
    return [float(owns) for owns in own_image]


def color(prompts, completions, *, own_image, **columns):
    """The red value of the image that a completion saw."""
    return [float(pixel(prompt)[0]) for prompt in prompts]


def pixel(prompt):
    """The first pixel of the image in chat messages."""
    return next(piece["image"] for message in prompt for piece in message["content"] if "image" in piece).getpixel(
        (0, 0)
    )
