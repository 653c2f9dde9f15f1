"""Generation behind one protocol: prompts and images in, completions out, in the same order.

`LocalGenerator` runs in this process. Items of similar size share a batch, which keeps padding low; batches are padded
on the left. Image tokens are never sampled (see `medvlm_r1.models.load.vision_token_ids`). The generation settings of a
checkpoint (Qwen2-VL: top_p 0.001, temperature 0.01) are ignored.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

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
    """Chat messages, as `medvlm_r1.prompts.templates.messages` renders them: one image placeholder per image."""
    images: Sequence[Image] = ()
    """RGB images in the order of their placeholders; the processor resizes them."""
    prefill: str = ""
    """Assistant prefill: the model continues from there. It replaces what the chat template opens."""
    seed: int = 0
    """Added to the settings' seed, so that conversations sampled one by one do not share their draws."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationSettings:
    """Length limit and sampling settings."""

    max_new_tokens: int = 512
    """Length limit; longer completions are marked as truncated."""
    temperature: float = 0.0
    """Below 1e-5: greedy. Otherwise the whole distribution is sampled (no top-k, no top-p)."""
    seed: int = 0
    """Seed of the sampling; ignored if greedy."""

    @property
    def samples(self) -> bool:
        """Whether to sample. Below this temperature decoding is greedy, because the division would overflow."""
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
    """The completion without special tokens. It begins with the `<think>` that the chat template opens, if it does.
    Where `GenerationInput.prefill` was given, it is what comes after that."""
    n_tokens: int
    """Tokens generated, without the end token. Words, or chunks of a stream, if a server does not report tokens."""
    truncated: bool
    """Whether the limit was reached before the end token."""


class Generator(Protocol):
    """Anything that completes conversations."""

    def generate(self, items: Sequence[GenerationInput], settings: GenerationSettings) -> list[Generation]:
        """Complete every item; return the results in the order of the items."""
        ...


class StreamingGenerator:
    """A generator that yields completions as soon as they are finished."""

    __slots__ = ()

    def generate(self, items: Sequence[GenerationInput], settings: GenerationSettings) -> list[Generation]:
        """Complete every item; return the results in the order of the items.

        Raises:
            UserError: As `iterate`.
        """
        completions = dict(pair for pairs in self.iterate(items, settings) for pair in pairs)
        return [completions[index] for index in range(len(completions))]

    def iterate(
        self, items: Sequence[GenerationInput], settings: GenerationSettings, done: Collection[int] = ()
    ) -> Iterator[list[tuple[int, Generation]]]:
        """Complete every item except those in `done`, which may be repeated to keep the others reproducible.

        Yields:
            Indices of items with their completions, for each batch or request that is finished.
        """
        raise NotImplementedError


def as_finished(
    generator: Generator, items: Sequence[GenerationInput], settings: GenerationSettings, done: Collection[int] = ()
) -> Iterator[list[tuple[int, Generation]]]:
    """`StreamingGenerator.iterate` for any generator; one that does not stream yields everything at the end."""
    if isinstance(generator, StreamingGenerator):
        yield from generator.iterate(items, settings, done)
        return
    wanted = [index for index in range(len(items)) if index not in done]
    if wanted:
        yield list(zip(wanted, generator.generate([items[index] for index in wanted], settings), strict=True))


@dataclass(slots=True, kw_only=True)
class LocalGenerator(StreamingGenerator):
    """Generate with a loaded policy, in batches."""

    policy: Policy
    batch_size: int = 8
    """Items per batch at most."""
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
        """As `StreamingGenerator`. Batches do not depend on `done`; a batch that is done is skipped.

        Raises:
            UserError: The number of images of an item differs from its image placeholders, or the model does not accept
                an image.
        """
        import torch

        for index, item in enumerate(items):
            check_images(index, item, self._fit)
        cuda = [self.policy.model.device] if self.policy.model.device.type == "cuda" else []
        for number, batch in enumerate(_batches(items, self.batch_size)):
            if all(index in done for index in batch):
                continue
            # The random state of the caller is restored, so an evaluation does not change the training around it.
            with torch.random.fork_rng(devices=cuda), torch.inference_mode():
                # Batches far apart, because the next seeds are those of other samples.
                torch.manual_seed((settings.seed + items[0].seed + (number << 32)) % 2**63)
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
    """Item indices by batch: items without images apart, the largest first, so that memory runs out early if at all."""

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
        UserError: The number differs from the image placeholders, or the model does not accept an image.
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
    """The rendered prompt, and the rest of the assistant prefill after it.

    If the chat template opens the reasoning and the prefill starts with the same text, that text stays in the prompt.
    Otherwise the prefill replaces what the template opens.
    """
    text = str(processor.apply_chat_template(list(item.prompt), add_generation_prompt=True))
    opening = opened_reasoning(text)
    if not item.prefill or item.prefill.startswith(opening):
        return text, item.prefill.removeprefix(opening)
    return text.removesuffix(opening), item.prefill


def opened(processor: Any, item: GenerationInput) -> str:
    """The rendered conversation up to the point where the model continues."""
    return "".join(prompt_and_prefill(processor, item))


def answer_opening(processor: Any, item: GenerationInput) -> str:
    """The part of the response that the chat template writes; "" if the item has an assistant prefill."""
    return "" if item.prefill else opened_reasoning(opened(processor, item))


_NOTHING_ELSE = {
    "num_beams": 1,
    "num_return_sequences": 1,
    "use_cache": True,
    "guidance_scale": 1.0,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "min_length": 0,
}
"""Settings that a model's own `generation_config.json` would otherwise change."""


def generation_config(policy: Policy, settings: GenerationSettings, suppressed: Sequence[int]) -> Any:
    """The transformers configuration for `settings` alone; tokens in `suppressed` are never generated."""
    from transformers import GenerationConfig

    sampling = settings.samples
    return GenerationConfig(
        max_new_tokens=settings.max_new_tokens,
        do_sample=sampling,
        temperature=settings.temperature if sampling else 1.0,
        top_k=0 if sampling else 50,
        top_p=1.0,
        repetition_penalty=1.0,
        **_NOTHING_ELSE,
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
    """Decode the ids of a completion up to its end token; `opening` is prepended."""
    length = next((position for position, token in enumerate(row) if token in ends), len(row))
    text = tokenizer.decode(row[:length], skip_special_tokens=True)
    return Generation(text=opening + text, n_tokens=length, truncated=length == len(row))
