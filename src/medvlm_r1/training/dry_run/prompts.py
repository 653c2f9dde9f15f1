"""Token counts of the prompts of a data set, from the model's processor and the image sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from medvlm_r1.data import Sample
from medvlm_r1.data.image_facts import image_sizes
from medvlm_r1.prompts.templates import messages


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompts:
    """Token counts of the prompts of a data set."""

    tokens: tuple[int, ...]
    """Number of tokens of each prompt, including image tokens."""
    image_tokens: tuple[int, ...]
    """Number of image tokens of each prompt."""
    patches: tuple[tuple[int, ...], ...]
    """Number of image patches, for each image of each prompt."""

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def mean(self) -> float:
        """Mean number of tokens per prompt."""
        return sum(self.tokens) / len(self.tokens)

    @property
    def longest(self) -> int:
        """Number of tokens of the longest prompt."""
        return max(self.tokens)

    @property
    def most_patches(self) -> int:
        """Largest number of image patches in one prompt."""
        return max(sum(images) for images in self.patches)


def measure(
    processor: Any,
    folder: str,
    samples: Sequence[Sample],
    template: str,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Prompts:
    """Count the tokens of every prompt.

    The text is tokenized with one placeholder per image. The image processor computes the numbers of image tokens and
    patches from the image size, without resizing an image.

    Args:
        processor: The model's processor, with its pixel bounds set.
        folder: The data folder.
        samples: The questions.
        template: Name of the prompt template.
        progress: Called with the number of prompts counted so far and the total.
    """
    known = image_sizes(folder, samples)
    tokens, images, patches = [], [], []
    for number, sample in enumerate(samples):
        sizes = [(size[1], size[0]) for name in sample.images if (size := known[name])]
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
    """The shortest well-formed completion for a template, and its number of tokens including the end token."""
    text = SHORTEST.get(template, "A")
    return text, len(processor.tokenizer(text, add_special_tokens=False)["input_ids"]) + 1


SHORTEST = {
    "medvlm-r1": "<think></think><answer>A</answer>",
    "no-think": "<answer>A</answer>",
    "think-after": "<answer>A</answer><think>ABCDE</think>",
    "answer-only": "A",
    "answer-only-open": "A",
    "medvlm-r1-box": "<think></think><answer>A</answer>",
    "medvlm-r1-box-pixels": "<think></think><answer>A</answer>",
    "medvlm-r1-open": "<think></think><answer>A</answer>",
}
