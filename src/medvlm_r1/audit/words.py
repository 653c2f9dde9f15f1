"""Patterns for words that mean something else in some company, for those who read claims and those who change them.

"{}" stands for the word or the words.
"""

SIDE = (
    r"(?<!\ball )(?<!\bthat's )\b{}\b"
    r"(?!\s+(?:answer|options?|choices?|one|letter|diagnosis|over|out|behind|to)\b)"
)
"""Left and right as sides: not "the right answer", "all right", "left over"."""

SIZE = r"(?<!contrast )\b{}\b(?!\s+(?:bowel|intestines?|colon|vessels?|airways?|number|part)\b)"
"""Small, medium, large as sizes of a finding: not "the small bowel", "contrast medium"."""
