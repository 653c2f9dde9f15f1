"""Prompt templates: render a sample as one user message."""

from typing import Any

from medvlm_r1.data.names import did_you_mean
from medvlm_r1.data.sample import LETTERS, Sample
from medvlm_r1.errors import UsageError

TEMPLATES: dict[str, str] = {
    # MedVLM-R1 (arXiv 2502.19634). The released scripts indent these lines, by 8 spaces in training and by 4 in
    # evaluation, because they sit in indented triple quotes; the words and the lines are theirs.
    "medvlm-r1": (
        "{question}\n"
        "Your task: \n"
        "1. Think through the question step by step, enclose your reasoning process in <think>...</think> tags.\n"
        "2. Then provide the correct single-letter choice (A, B, C, D,...) inside <answer>...</answer> tags.\n"
        "3. No extra information or text outside of these tags."
    ),
    "answer-only": "{question}\nAnswer with the option's letter only.",
}
"""The paper's and its baseline's. The embedded base's tokenizer is learned from them, so another one here would give
another tokenizer; further templates go into `VARIANTS`."""

VARIANTS: dict[str, str] = {
    # Med-R1 (arXiv 2503.13939) without thinking: the words of its evaluation script, as a public fork of its repository
    # holds it; there they follow the question after a space, on the same line.
    "no-think": (
        "{question}\nProvide the correct single-letter choice (A, B, C, D,...) inside <answer>...</answer> tags."
    ),
    # The answer first, as Med-R1's variant of that name has it. The words are this project's own, turned around from
    # MedVLM-R1's; Med-R1's were not found.
    "think-after": (
        "{question}\n"
        "Your task: \n"
        "1. First provide the correct single-letter choice (A, B, C, D,...) inside <answer>...</answer> tags.\n"
        "2. Then explain the choice step by step, enclose your reasoning process in <think>...</think> tags.\n"
        "3. No extra information or text outside of these tags."
    ),
}
"""Templates of other work."""

ALL_TEMPLATES = TEMPLATES | VARIANTS

_REASONING_TAG = "<think>"


def opened_reasoning(rendered: str) -> str:
    """The reasoning tag that a chat template has already opened, with the white space after it; "" without one.

    The templates of Qwen3-VL-Thinking and of other reasoning models end the prompt with `<think>`, so the model does
    not write it. The tag is part of the assistant's response all the same.

    Args:
        rendered: A prompt as the chat template renders it, with the generation prompt.
    """
    text = rendered.rstrip()
    return rendered[len(text) - len(_REASONING_TAG) :] if text.endswith(_REASONING_TAG) else ""


def lettered(sample: Sample) -> str:
    """The question and one line per option, `A) text`; the question alone when it has no options."""
    options = [f"{letter}) {text}" for letter, text in zip(LETTERS, sample.options, strict=False)]
    return "\n".join([sample.question, *options])


def template_text(name: str) -> str:
    """The text of a prompt template, with a field for the question.

    Raises:
        UsageError: No template has that name; the message names the nearest.
    """
    if name not in ALL_TEMPLATES:
        raise UsageError(f"unknown prompt template {name!r}; {did_you_mean(name, ALL_TEMPLATES)}")
    return ALL_TEMPLATES[name]


def render_prompt(sample: Sample, template: str = "medvlm-r1") -> str:
    """Render the text of the user message: the template around the lettered question.

    Args:
        sample: The question.
        template: A name in `ALL_TEMPLATES`.

    Raises:
        UsageError: No template has that name.
    """
    return template_text(template).format(question=lettered(sample))


def messages(sample: Sample, template: str = "medvlm-r1") -> list[dict[str, Any]]:
    """The conversation for a processor's chat template: one user message, images first, no system prompt.

    Args:
        sample: The question.
        template: A name in `ALL_TEMPLATES`.

    Returns:
        `[{"role": "user", "content": [{"type": "image"}, ..., {"type": "text", "text": ...}]}]` with one image entry
        per image of the sample, in order; the pixels go to the processor beside it.

    Raises:
        UsageError: As `render_prompt`.
    """
    text = {"type": "text", "text": render_prompt(sample, template)}
    return [{"role": "user", "content": [*({"type": "image"} for _ in sample.images), text]}]
