"""Prompt templates: render a sample as one user message."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from medvlm_r1.data.names import did_you_mean
from medvlm_r1.data.sample import LETTERS, Sample
from medvlm_r1.errors import UsageError

BOX_PIXELS = "medvlm-r1-box-pixels"
"""Name of the template with boxes in pixels of the resized image."""
TEMPLATES: dict[str, str] = yaml.safe_load(Path(__file__).with_name("templates.yaml").read_text(encoding="utf-8"))
"""Prompt templates by name, with the placeholder `{question}`."""

_REASONING_TAG = "<think>"


def opened_reasoning(rendered: str) -> str:
    """The `<think>` tag at the end of a rendered prompt, with the white space after it; "" if there is none.

    The chat templates of Qwen3-VL-Thinking and other reasoning models end the prompt with `<think>`, so the model does
    not write it. The tag still belongs to the assistant response.

    Args:
        rendered: A prompt as rendered by the chat template, with the generation prompt.
    """
    text = rendered.rstrip()
    return rendered[len(text) - len(_REASONING_TAG) :] if text.endswith(_REASONING_TAG) else ""


def lettered(sample: Sample) -> str:
    """The question and one line per option, `A) text`; only the question if it has no options."""
    options = [f"{letter}) {text}" for letter, text in zip(LETTERS, sample.options, strict=False)]
    return "\n".join([sample.question, *options])


def template_text(name: str) -> str:
    """The text of a prompt template, with the placeholder `{question}`.

    Raises:
        UsageError: No template has that name. The message suggests the nearest name.
    """
    if name not in TEMPLATES:
        raise UsageError(f"unknown prompt template {name!r}; {did_you_mean(name, TEMPLATES)}")
    return TEMPLATES[name]


def render_prompt(sample: Sample, template: str = "medvlm-r1") -> str:
    """Render the text of the user message: the template, filled with the question and its lettered options.

    Args:
        sample: Sample with the question and its options.
        template: A name in `TEMPLATES`. For a sample without options, the template `<name>-open` is used if there is
            one, because the others ask for a letter.

    Raises:
        UsageError: No template has that name.
    """
    if not sample.options and f"{template}-open" in TEMPLATES:
        template = f"{template}-open"
    return template_text(template).format(question=lettered(sample))


def messages(sample: Sample, template: str = "medvlm-r1") -> list[dict[str, Any]]:
    """Messages for a processor's chat template: one user message, images first, no system prompt.

    Args:
        sample: Sample with the question, its options and its images.
        template: A name in `TEMPLATES`.

    Returns:
        `[{"role": "user", "content": [{"type": "image"}, ..., {"type": "text", "text": ...}]}]` with one image entry
        per image of the sample, in order. Pass the images themselves to the processor separately.

    Raises:
        UsageError: No template has that name.
    """
    text = {"type": "text", "text": render_prompt(sample, template)}
    return [{"role": "user", "content": [*({"type": "image"} for _ in sample.images), text]}]


def hash_prompt(conversation: Sequence[Mapping[str, Any]]) -> str:
    """SHA-256 of a conversation as passed to the model."""
    return hashlib.sha256(json.dumps(conversation, sort_keys=True).encode()).hexdigest()
