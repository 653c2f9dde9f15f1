"""Rewards for tests that ask for the policy's answers to blank images, named by their dotted path."""

import zlib

SEEN = []


def noting(prompts, completions, *, blank_letter, **columns):
    """Pays nothing; notes the sample and the blank answer of every row."""
    SEEN.extend(zip(columns["sample_id"], blank_letter, strict=True))
    return [0.0] * len(completions)


def unlike_blank(completions, *, blank_letter, **columns):
    """1 where the blank answer is not the correct letter."""
    return [float(blank != letter) for blank, letter in zip(blank_letter, columns["letter"], strict=True)]


def coded(completions, *, blank_letter, **columns):
    """The blank answer as a number."""
    return [code(blank) for blank in blank_letter]


def code(text):
    return float(zlib.crc32(str(text).encode()) % 1000)


def by_blank(completion_ids, *, blank_letter, **columns):
    """Pays for length, and how well, the blank answer decides."""
    rates = [1 + zlib.crc32(str(text).encode()) % 5 for text in blank_letter]
    return [float(len(ids) * rate) for ids, rate in zip(completion_ids, rates, strict=True)]
