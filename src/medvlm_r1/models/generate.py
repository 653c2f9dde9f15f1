"""Generation protocol: take prompts and images, return completions in the same order.

`LocalGenerator` runs in this process. Items of similar size share a batch, which reduces padding. Batches are padded on
the left. Image tokens are never sampled (see `medvlm_r1.models.load.vision_token_ids`). The generation settings of a
checkpoint (for Qwen2-VL: top_p 0.001, temperature 0.01) are ignored.
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from PIL.Image import Image

from medvlm_r1.errors import UserError
from medvlm_r1.models.load import Policy, vision_token_ids
from medvlm_r1.models.processor import ImageFit
from medvlm_r1.prompts.templates import opened_reasoning

_MIN_TEMPERATURE = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationInput:
    """One conversation to complete."""

    prompt: Sequence[Mapping[str, Any]]
    """Chat messages in the form of `medvlm_r1.prompts.templates.messages`, with one image placeholder per image."""
    images: Sequence[Image] = ()
    """RGB images in the order of their placeholders; the processor resizes them."""
    prefill: str = ""
    """Assistant prefill, which the model continues. It replaces any reasoning tag that the chat template opens."""
    seed: int = 0
    """Added to the seed of the settings, so that conversations sampled one by one get different random numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationSettings:
    """Length limit and sampling settings."""

    max_new_tokens: int = 512
    """Maximum number of tokens. Longer completions are cut off and marked as truncated."""
    temperature: float = 0.0
    """Sampling temperature. Decoding is greedy below 1e-5; otherwise, all tokens can be sampled (no top-k or top-p)."""
    seed: int = 0
    """Sampling seed; ignored if decoding is greedy."""

    @property
    def samples(self) -> bool:
        """Whether to sample. Decoding is greedy if the temperature is below 1e-5, where the division would overflow."""
        return self.temperature >= _MIN_TEMPERATURE

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1:
            raise UserError(f"max_new_tokens is {self.max_new_tokens}; it must be at least 1.")
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise UserError(f"temperature is {self.temperature}; it must be 0 (greedy) or above.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """One completion."""

    text: str
    """The completion without special tokens. It begins with `<think>` if the chat template opens that tag. If
    `GenerationInput.prefill` was given, this is only the text after the prefill."""
    n_tokens: int
    """Number of generated tokens without the end token. If a server does not report it: words or stream chunks."""
    truncated: bool
    """Whether the token limit was reached before the end token."""


class Generator:
    """Base class of objects that complete conversations. A subclass overrides `iterate`, or else `generate`."""

    __slots__ = ()

    def generate(self, items: Sequence[GenerationInput], settings: GenerationSettings) -> list[Generation]:
        """Complete every item; return the results in the order of the items.

        Raises:
            UserError: See `iterate`.
        """
        completions = dict(pair for pairs in self.iterate(items, settings) for pair in pairs)
        return [completions[index] for index in range(len(completions))]

    def iterate(
        self, items: Sequence[GenerationInput], settings: GenerationSettings, done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Generation]]]:
        """Complete every item whose index is not in `done`.

        Items in `done` may be completed again to keep the others reproducible.

        Yields:
            A list of (item index, completion) pairs for each finished batch or request.
        """
        wanted = [index for index in range(len(items)) if index not in done]
        if wanted:
            yield list(zip(wanted, self.generate([items[index] for index in wanted], settings), strict=True))


@dataclass(slots=True, kw_only=True)
class LocalGenerator(Generator):
    """Generator that runs a loaded policy on batches of items."""

    policy: Policy
    batch_size: int = 8
    """Maximum number of items per batch."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Further arguments of transformers' `generate`, such as `stopping_criteria`."""
    _suppressed: list[int] = field(init=False)
    _fit: ImageFit = field(init=False)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"batch_size is {self.batch_size}; it must be at least 1.")
        self._suppressed = vision_token_ids(self.policy.model, self.policy.processor)
        self._fit = ImageFit(model=self.policy.name, processor=self.policy.processor.image_processor)

    def iterate(
        self, items: Sequence[GenerationInput], settings: GenerationSettings, done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Generation]]]:
        """See `Generator`. Batches do not depend on `done`; a batch is skipped if all its items are done.

        Raises:
            UserError: The number of images of an item differs from the number of its image placeholders, or the model
                does not accept an image.
        """
        import torch

        for index, item in enumerate(items):
            check_images(index, item, self._fit)
        cuda = [self.policy.model.device] if self.policy.model.device.type == "cuda" else []
        for number, batch in enumerate(_batches(items, self.batch_size)):
            if all(index in done for index in batch):
                continue
            # The random state of the caller is restored, so an evaluation does not affect the training run around it.
            with torch.random.fork_rng(devices=cuda), torch.inference_mode():
                # Seeds of batches are far apart, because adjacent seeds are used for other samples. They differ in
                # their lower 32 bits, because a generator on a CPU ignores the others. Multiples of 2**32 divided by
                # the golden ratio stay far apart modulo 2**32.
                torch.manual_seed((settings.seed + items[0].seed + number * 0x9E3779B1) % 2**32)
                completions = self._complete([items[index] for index in batch], settings)
            yield list(zip(batch, completions, strict=True))

    def _complete(self, items: Sequence[GenerationInput], settings: GenerationSettings) -> list[Generation]:
        model, processor = self.policy.model, self.policy.processor
        texts = [opened(processor, item) for item in items]
        images = [list(item.images) for item in items] if items[0].images else None
        inputs = processor(text=texts, images=images, padding=True, padding_side="left", return_tensors="pt")
        ends = end_tokens(model, processor.tokenizer)
        config = generation_config(self.policy, settings, self._suppressed)
        output = model.generate(**inputs.to(model.device), generation_config=config, **self.options)
        rows = output[:, inputs["input_ids"].shape[1] :].tolist()
        openings = [answer_opening(processor, item) for item in items]
        return [cut(row, ends, processor.tokenizer, opening) for row, opening in zip(rows, openings, strict=True)]


def _batches(items: Sequence[GenerationInput], batch_size: int) -> Iterator[list[int]]:
    """Item indices by batch, first with images, then without; large items first, so that memory errors occur early."""

    def size(index: int) -> tuple[int, int]:
        item = items[index]
        return sum(image.width * image.height for image in item.images), len(str(item.prompt))

    for illustrated in (True, False):
        chosen = sorted((i for i, item in enumerate(items) if bool(item.images) == illustrated), key=size, reverse=True)
        for start in range(0, len(chosen), batch_size):
            yield chosen[start : start + batch_size]


def check_images(index: int, item: GenerationInput, fit: ImageFit | None = None) -> None:
    """Check the number of images of an item and their sizes.

    Raises:
        UserError: The number of images differs from the number of placeholders, or the model does not accept an image.
    """
    for image in item.images:
        reason = fit(image.size) if fit else None
        if fit and reason:
            raise UserError(
                f"Item {index}: {fit.model} cannot take its image of {image.width} x {image.height} pixels: {reason}. "
                "Crop or pad the image."
            )
    contents = [message["content"] for message in item.prompt]
    pieces = [piece for content in contents if not isinstance(content, str) for piece in content]
    placeholders = sum(piece["type"] == "image" for piece in pieces)
    if placeholders != len(item.images):
        raise UserError(
            f"Item {index} has {placeholders} image placeholders in its prompt and {len(item.images)} images."
        )


def prompt_and_prefill(processor: Any, item: GenerationInput) -> tuple[str, str]:
    """The rendered prompt, and the part of the assistant prefill that follows it.

    If the chat template opens a reasoning tag and the prefill starts with the same tag, the tag stays in the prompt.
    Any other prefill replaces the tag.
    """
    text = str(processor.apply_chat_template(list(item.prompt), add_generation_prompt=True))
    opening = opened_reasoning(text)
    if not item.prefill or item.prefill.startswith(opening):
        return text, item.prefill.removeprefix(opening)
    return text.removesuffix(opening), item.prefill


def opened(processor: Any, item: GenerationInput) -> str:
    """The rendered prompt followed by the assistant prefill, which the model continues."""
    return "".join(prompt_and_prefill(processor, item))


def answer_opening(processor: Any, item: GenerationInput) -> str:
    """The reasoning tag with which the chat template opens the response; "" if the item has an assistant prefill."""
    return "" if item.prefill else opened_reasoning(opened(processor, item))


KNOWN_SETTINGS = yaml.safe_load(Path(__file__).with_name("generation.yaml").read_text(encoding="utf-8"))
"""Settings of transformers' `generate` by their effect, and their default values."""


def generation_config(policy: Policy, settings: GenerationSettings, suppressed: Sequence[int]) -> Any:
    """The transformers `GenerationConfig` for `settings`. Tokens in `suppressed` are never generated."""
    from transformers import GenerationConfig

    sampling = settings.samples
    return GenerationConfig(
        max_new_tokens=settings.max_new_tokens,
        do_sample=sampling,
        temperature=settings.temperature if sampling else 1.0,
        top_k=0 if sampling else 50,
        top_p=1.0,
        repetition_penalty=1.0,
        **KNOWN_SETTINGS["defaults"],
        suppress_tokens=list(suppressed),
        eos_token_id=end_tokens(policy.model, policy.processor.tokenizer),
        pad_token_id=policy.processor.tokenizer.pad_token_id,
    )


def end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Ids of the tokens that end a completion."""
    declared = model.generation_config.eos_token_id
    ends = declared if isinstance(declared, list) else [declared]
    return sorted({end for end in [*ends, tokenizer.eos_token_id] if end is not None})


def cut(row: list[int], ends: list[int], tokenizer: Any, opening: str = "") -> Generation:
    """Decode the ids of a completion up to its end token, and prepend `opening` to the text."""
    length = next((position for position, token in enumerate(row) if token in ends), len(row))
    text = tokenizer.decode(row[:length], skip_special_tokens=True)
    return Generation(text=opening + text, n_tokens=length, truncated=length == len(row))
