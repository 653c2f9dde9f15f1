"""The tokens of a data set's prompts, by the model's own processor, from the sizes of the images alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from medvlm_r1.data import Sample, load_image
from medvlm_r1.data.paths import inside
from medvlm_r1.prompts.templates import messages
from medvlm_r1.training.dry_run.work import Prompts


def measure(
    processor: Any,
    folder: str,
    samples: Sequence[Sample],
    template: str,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Prompts:
    """Count the tokens of every prompt.

    The chat template and the tokenizer give the text, with one placeholder for an image; how many tokens and patches
    take its place the image processor works out from the image's size (its rule, not its resizing).

    Args:
        processor: The model's processor, its pixel bounds set.
        folder: The data folder.
        samples: The questions.
        template: Name of the prompt template.
        progress: Told of (done, total).
    """
    known: dict[str, tuple[int, int]] = {}
    tokens, images, patches = [], [], []
    for number, sample in enumerate(samples):
        for name in sample.images:
            if name not in known:
                width, height = load_image(inside(folder, name)).size
                known[name] = (height, width)
        sizes = [known[name] for name in sample.images]
        counted = processor._get_num_multimodal_tokens(image_sizes=sizes) if sizes else None
        per_image = [int(n) for n in counted["num_image_tokens"]] if counted else []
        text = processor.apply_chat_template(messages(sample, template), add_generation_prompt=True, tokenize=False)
        ids = processor.tokenizer(text, add_special_tokens=False)["input_ids"]
        tokens.append(len(ids) - len(sizes) + sum(per_image))
        images.append(sum(per_image))
        patches.append(tuple(int(n) for n in counted["num_image_patches"]) if counted else ())
        progress(number + 1, len(samples))
    return Prompts(tokens=tuple(tokens), image_tokens=tuple(images), patches=tuple(patches))


def shortest_answer(processor: Any, template: str) -> tuple[str, int]:
    """The shortest completion in the form a template asks for, and its tokens with the one that ends it."""
    text = SHORTEST.get(template, "A")
    return text, len(processor.tokenizer(text, add_special_tokens=False)["input_ids"]) + 1


SHORTEST = {
    "medvlm-r1": "<think></think><answer>A</answer>",
    "no-think": "<answer>A</answer>",
    "think-after": "<answer>A</answer><think>ABCDE</think>",
    "answer-only": "A",
}
