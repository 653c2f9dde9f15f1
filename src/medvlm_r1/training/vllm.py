"""Generation with vLLM from the prompts and images that the trainer learns from.

TRL 1.16 sends vLLM the token ids of the trainer and the original images. vLLM processes the images itself, with the
processor in the model's folder:

* It does not know the pixel bounds of the run. Images are therefore resized here by the bounded processor. Resizing an
  image that is within the bounds changes nothing, so vLLM's processor leaves it as it is.
* In the training process (colocated) it expands each image token to the tokens of an image (TRL issue 6294). Each run
  of image tokens is therefore collapsed to one token. A server takes expanded prompts.

What vLLM read is compared with the prompts of the trainer after every generation.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from transformers import Qwen2VLImageProcessor
from trl.generation.vllm_generation import VLLMGeneration

from medvlm_r1.errors import UserError
from medvlm_r1.models.processor import load_processor


class ExactVLLM(VLLMGeneration):  # type: ignore[misc]
    """TRL's generation with vLLM, reading exactly the prompts and images of the trainer."""

    def generate(
        self, prompts: list[list[int]], images: Any, num_generations: int, profiler: Any = None
    ) -> tuple[Any, Any, Any, Any]:
        """Generate as TRL does.

        Raises:
            UserError: vLLM would see or has read another prompt than the trainer.
        """
        sent = prompts
        if images is not None:
            # TRL sends None for a prompt without images.
            images = [[self._bounded(image) for image in row] if row else None for row in images]
            if self.mode == "colocate":
                token = self.processing_class.image_token_id
                sent = [collapse_images(ids, token, len(row or ())) for ids, row in zip(prompts, images, strict=True)]
        read, *rest = super().generate(sent, images, num_generations, profiler)
        for ours, theirs in zip(prompts, read, strict=True):
            if list(ours) != list(theirs):
                raise _unequal(self.model.name_or_path, len(ours), len(theirs), "tokens of a prompt")
        return (read, *rest)

    def _place_features(self, features: dict[str, Any] | None, prompt_ids: list[int]) -> dict[str, Any] | None:
        placed = super()._place_features(features, prompt_ids)
        if features is not None and placed is not None:
            theirs, ours = (
                [run["length"] for run in source["mm_placeholders"]["image"]] for source in (features, placed)
            )
            if ours != theirs:
                raise _unequal(self.model.name_or_path, ours, theirs, "tokens of the images of a prompt")
        return placed  # type: ignore[no-any-return]

    def _bounded(self, image: Any) -> Any:
        """The image as the processor of the run resizes it; unchanged if the run has the bounds of the model."""
        ours = self.processing_class.image_processor
        if not hasattr(self, "_own"):
            self._own = load_processor(Path(self.model.name_or_path)).image_processor
        if dict(ours.size) == dict(self._own.size):
            return image
        resized = resize(image, ours)
        width, height = resized.size
        if resize(resized, self._own).size != (width, height):
            raise UserError(
                f"The pixel bounds of this run make an image {width} x {height} pixels, which the processor of "
                f"{self.model.name_or_path} would resize again, so vLLM would see another image. With vLLM, min_pixels "
                f"must be at least {self._own.size['shortest_edge']} and max_pixels at most "
                f"{self._own.size['longest_edge']}."
            )
        return resized


def resize(image: Any, processor: Any) -> Image.Image:
    """Resize an image by the rule of an image processor.

    Raises:
        UserError: It is not a processor of Qwen, the only ones whose rule is known here.
    """
    if not isinstance(processor, Qwen2VLImageProcessor):
        raise UserError(
            f"min_pixels and max_pixels cannot be used with vLLM and {type(processor).__name__}, only with the image "
            "processors of Qwen. Leave them out, or set them in the processor of the model."
        )
    pixels = processor.process_image(image, do_convert_rgb=processor.do_convert_rgb)
    pixels = processor.resize(
        pixels[None],
        size=processor.size,
        resample=processor.resample,
        factor=processor.patch_size * processor.merge_size,
    )
    return Image.fromarray(pixels[0].to(torch.uint8).permute(1, 2, 0).numpy())


def collapse_images(ids: Sequence[int], image_token: int, images: int) -> list[int]:
    """Replace each run of image tokens by one.

    Args:
        ids: Token ids of a prompt.
        image_token: Id of the image token.
        images: Number of its images.

    Raises:
        UserError: There is not one run per image, so that they cannot be told apart.
    """
    runs = [(token, len(list(run))) for token, run in itertools.groupby(ids)]
    collapsed = [item for token, length in runs for item in [token] * (1 if token == image_token else length)]
    if collapsed.count(image_token) != images:
        raise UserError(
            f"A prompt has {images} images and {collapsed.count(image_token)} runs of image tokens. A colocated vLLM "
            "needs one run per image; use vllm_mode: server, or leave use_vllm out."
        )
    return collapsed


def _unequal(model: str, ours: Any, theirs: Any, what: str) -> UserError:
    return UserError(
        f"vLLM and the trainer disagree about the {what}: {ours} in the trainer, {theirs} in vLLM. The run would learn "
        f"from another prompt than the completions were written for. Serve the same model ({model}) with its own image "
        "processor, without mm-processor-kwargs; or leave use_vllm out."
    )
