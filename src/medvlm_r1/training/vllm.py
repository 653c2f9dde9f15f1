"""Generation with vLLM from exactly the prompts, images and weights that the trainer uses.

TRL 1.16 sends the trainer's token ids and the original images to vLLM. vLLM processes the images itself, with the
processor in the model's folder:

* vLLM does not know the pixel bounds of the run. Images are therefore resized here with the run's processor. They are
  then within the bounds, so vLLM's processor does not resize them again.
* A vLLM in the training process (colocated) expands each image token to the tokens of an image (TRL issue 6294). Each
  run of image tokens is therefore collapsed to one token. A vLLM server takes expanded prompts.

After every generation, the token ids that vLLM used are compared with the trainer's prompts. A difference is therefore
found before the first update.
"""

import copy
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast_object_list, gather_object, is_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from PIL import Image
from torch import Tensor
from torch.distributed.tensor import DTensor
from transformers import Qwen2VLImageProcessor
from trl.generation.vllm_generation import VLLMGeneration

from medvlm_r1.errors import UserError
from medvlm_r1.models.decoding.kv_cache import replaced_generate
from medvlm_r1.models.processor import load_processor

Row = tuple[list[int], list[Any] | None]
"""Token ids of a prompt, and its images if it has any."""


class ExactVLLM(VLLMGeneration):  # type: ignore[misc]
    """TRL's generation with vLLM, with exactly the prompts, images and weights of the trainer.

    Attributes:
        greedy: Additional prompts of this process, which the next call completes greedily. Processes may have
            different numbers of them.
        greedy_ids: Token ids of the completions of these prompts.
    """

    greedy: Sequence[Row] = ()
    greedy_ids: Sequence[list[int]] = ()

    def generate(
        self, prompts: list[list[int]], images: Any, num_generations: int, profiler: Any = None
    ) -> tuple[Any, Any, Any, Any]:
        """Generate as TRL does, with the `greedy` prompts as additional requests.

        Raises:
            UserError: vLLM's prompt or images differ from those of the trainer.
        """
        # TRL sends None for a prompt without images.
        sent = [self._sent(ids, row) for ids, row in zip(prompts, images or [None] * len(prompts), strict=True)]
        with self._completing_greedily(self.greedy):
            read, *rest = super().generate(*map(list, zip(*sent, strict=True)), num_generations, profiler)
        for ours, theirs in zip(prompts, read, strict=True):
            self._compare(ours, theirs)
        return (read, *rest)

    def _sent(self, ids: list[int], images: list[Any] | None) -> Row:
        """A prompt as it is sent to vLLM."""
        bounded = [self._bounded(image) for image in images] if images else None
        if self.mode == "colocate":
            ids = collapse_images(ids, self.processing_class.image_token_id, len(images or ()))
        return ids, bounded

    def _compare(self, ours: Sequence[int], theirs: Sequence[int]) -> None:
        if list(ours) != list(theirs):
            raise _unequal(self.model.name_or_path, len(ours), len(theirs), "tokens of a prompt")

    @contextmanager
    def _completing_greedily(self, rows: Sequence[Row]) -> Iterator[None]:
        """Make the next call of the vLLM engine or server also complete these rows greedily.

        Its `generate` is patched, because TRL calls it after the weights are loaded and the prompts are gathered. An
        engine is called on every device. A server is called by the main process for all processes.
        """
        server, size, index = self.mode == "server", self.tensor_parallel_size, self.accelerator.process_index
        everyone: list[Sequence[Row]] = gather_object([rows]) if server or size > 1 else [rows]
        if not server:
            everyone = everyone[index // size * size :][:size] if size > 1 else everyone
            index %= size
        engine = getattr(self, "vllm_client", None) if server else self.llm
        completed: list[list[int]] = []
        pending = list(itertools.chain(*everyone))
        if engine is None or not pending:
            yield
        else:
            extend = self._serving if server else self._running
            with replaced_generate(engine, extend(engine.generate, pending, completed)):
                yield
        if server:
            completed = broadcast_object_list([completed], from_process=0)[0]
        start = sum(map(len, everyone[:index]))
        self.greedy_ids = completed[start : start + len(rows)]

    def _running(self, generate: Any, rows: list[Row], completed: list[list[int]]) -> Callable[..., Any]:
        """Extend the engine's `generate` with greedy rows after its prompts. Their completions go to `completed`."""

        def extended(prompts: list[Any], *, sampling_params: Any, use_tqdm: bool) -> Any:
            greedy = copy.deepcopy(sampling_params)
            greedy.temperature, greedy.top_p, greedy.top_k, greedy.min_p = 0.0, 1.0, 0, 0.0
            sent = [self._sent(*row) for row in rows]
            extra = [{"prompt_token_ids": ids, "multi_modal_data": {"image": images}} for ids, images in sent]
            settings = [sampling_params] * len(prompts) + [greedy] * len(rows)
            outputs = generate([*prompts, *extra], sampling_params=settings, use_tqdm=use_tqdm)
            for (ids, _), output in zip(rows, outputs[len(prompts) :], strict=True):
                self._compare(ids, output.prompt_token_ids)
                completed.append(list(output.outputs[0].token_ids))
            return outputs[: len(prompts)]

        return extended

    def _serving(self, generate: Any, rows: list[Row], completed: list[list[int]]) -> Callable[..., Any]:
        """Extend a client's `generate` in the same way. It makes two concurrent calls, each with its own settings."""

        def extended(**call: Any) -> Any:
            prompts, images = map(list, zip(*(self._sent(*row) for row in rows), strict=True))
            features = self.vllm_client.image_features(images)
            placed = [self._place_features(feature, ids) for feature, ids in zip(features, prompts, strict=True)]
            greedy = call | {"prompts": prompts, "features": placed, "n": 1, "temperature": 0.0}
            with ThreadPoolExecutor(2) as threads:
                output, beside = threads.map(lambda settings: generate(**settings), (call, greedy))
            completed.extend(beside["completion_ids"])
            return output

        return extended

    def _iter_named_params(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the weights under vLLM's names, with each adapter added to a copy of its weight.

        TRL merges all adapters into the weights and subtracts them afterwards. In bfloat16 this does not restore the
        weights exactly, so they drift with every synchronization (TRL issue 6688). Only one copy exists at a time.
        """
        model = self.model
        if not is_peft_model(model):
            yield from super()._iter_named_params()
            return
        adapted = {name: module for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)}
        for name, weight in model.named_parameters():
            if model.prefix in name:
                continue
            layer: Any = adapted.get(name.removesuffix(".base_layer.weight"))
            with self._dist.gather_params([weight] if layer is None else list(layer.parameters())):
                merged = weight.data
                if layer is not None:
                    (adapter,) = layer.active_adapters
                    # The sum is rounded once, as in the final model.
                    merged = (merged.float() + layer.get_delta_weight(adapter).detach().float()).to(merged.dtype)
                if isinstance(merged, DTensor):
                    merged = merged.full_tensor()
                name = name.removeprefix("base_model.model.").replace(".base_layer", "")
                yield self._fix_param_name_to_vllm(name), merged

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
        """Resize an image with the run's processor. It stays unchanged if the run uses the model's bounds."""
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
    """Resize an image as an image processor does.

    Raises:
        UserError: The processor is not a Qwen image processor. No other processor is supported.
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
    """Replace each run of image tokens with one image token.

    Args:
        ids: Token ids of a prompt.
        image_token: Id of the image token.
        images: Number of images in the prompt.

    Raises:
        UserError: The number of runs differs from the number of images, so the images cannot be told apart.
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
