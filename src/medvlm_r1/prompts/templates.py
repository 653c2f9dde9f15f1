"""Prompt templates: render a sample as one user message."""

from typing import Any

from medvlm_r1.data.names import did_you_mean
from medvlm_r1.data.sample import LETTERS, Sample
from medvlm_r1.errors import UsageError

BOX_PIXELS = "medvlm-r1-box-pixels"
"""Name of the template with boxes in pixels of the resized image."""
TEMPLATES: dict[str, str] = {
    # MedVLM-R1 (arXiv 2502.19634). The released scripts indent these lines, by 8 spaces in training and by 4 in
    # evaluation, because they are inside indented triple quotes. The words and line breaks are unchanged here.
    "medvlm-r1": (
        "{question}\n"
        "Your task: \n"
        "1. Think through the question step by step, enclose your reasoning process in <think>...</think> tags.\n"
        "2. Then provide the correct single-letter choice (A, B, C, D,...) inside <answer>...</answer> tags.\n"
        "3. No extra information or text outside of these tags."
    ),
    "answer-only": "{question}\nAnswer with the option's letter only.",
    # This project's own: MedVLM-R1's words, with boxes between the reasoning and the answer.
    "medvlm-r1-box": (
        "{question}\n"
        "Your task: \n"
        "1. Think through the question step by step, enclose your reasoning process in <think>...</think> tags.\n"
        "2. Then give the position of each finding as <box>x1,y1,x2,y2</box>, in integers from 0 to 1000 of the image's"
        " width and height. Give no box if there is no finding.\n"
        "3. Then provide the correct single-letter choice (A, B, C, D,...) inside <answer>...</answer> tags.\n"
        "4. No extra information or text outside of these tags."
    ),
    # This project's own: MedVLM-R1's words, for questions without options.
    "medvlm-r1-open": (
        "{question}\n"
        "Your task: \n"
        "1. Think through the question step by step, enclose your reasoning process in <think>...</think> tags.\n"
        "2. Then provide the correct answer in a few words inside <answer>...</answer> tags.\n"
        "3. No extra information or text outside of these tags."
    ),
    # `answer-only`, for questions without options.
    "answer-only-open": "{question}\nAnswer in a few words.",
    # Med-R1 (arXiv 2503.13939) without thinking. The words are from its evaluation script in a public fork of its
    # repository. There, they follow the question after a space, on the same line.
    "no-think": (
        "{question}\nProvide the correct single-letter choice (A, B, C, D,...) inside <answer>...</answer> tags."
    ),
    # The answer comes first, as in Med-R1's variant of that name. Med-R1's words were not found. These words are this
    # project's own: MedVLM-R1's, with the two steps swapped.
    "think-after": (
        "{question}\n"
        "Your task: \n"
        "1. First provide the correct single-letter choice (A, B, C, D,...) inside <answer>...</answer> tags.\n"
        "2. Then explain the choice step by step, enclose your reasoning process in <think>...</think> tags.\n"
        "3. No extra information or text outside of these tags."
    ),
}
"""Prompt templates by name, with the placeholder `{question}`."""

TEMPLATES[BOX_PIXELS] = TEMPLATES["medvlm-r1-box"].replace(
    "integers from 0 to 1000 of the image's width and height", "pixels of the image with one decimal"
)

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
