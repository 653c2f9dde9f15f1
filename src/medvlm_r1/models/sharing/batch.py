"""Batches that store each prompt once for all its rows, and a cache of image features.

If a run cannot share prompts, the trainer runs like TRL's own and prints the reason. Weights that are sharded over
processes (FSDP2, ZeRO-3) are gathered by collective operations in hooks of the modules. So every process has to run the
same modules in the same order, through the wrapped model, even if the processes have different rows.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.distributed.fsdp import FSDPModule

from medvlm_r1.models.decoding.shared_generation import refuses
from medvlm_r1.models.families import unsupported
from medvlm_r1.models.sharing.forward import ImageFeatures


def not_shared(trainer: Any, model: Any) -> str | None:
    """The reason why a run cannot share prompts; None if it can.

    Args:
        trainer: An initialized `GRPOTrainer`.
        model: The trainer's policy with its adapters, without wrappers for distributed training.
    """
    if trainer.tools or trainer.environment_factories is not None:
        return "tools and environments change the prompt as they run."
    if trainer.rollout_func is not None:
        return "a rollout function makes its own prompts."
    if trainer.aux_loss_enabled:
        return "the load-balancing loss of experts is a mean over the rows."
    if trainer._dist.fsdp_version == 1:
        return "FSDP 1 flattens the weights; set fsdp_version: 2 in the file of accelerate launch."
    if len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1:
        return "the layers are on several devices."
    if trainer.args.torch_compile:
        return "it was never run with a compiled model (torch_compile)."
    if trainer.args.neftune_noise_alpha:
        return "the noise of NEFTune (neftune_noise_alpha) depends on the length of a row."
    if not trainer._is_vlm:
        return "the processor has no image processor."
    return unsupported(model)


def not_generated(trainer: Any, model: Any) -> str | None:
    """The reason why generation cannot share prompts; None if it can.

    Args:
        trainer: An initialized `GRPOTrainer`.
        model: The trainer's policy without adapters. Its own generation settings apply where TRL sets none.
    """
    if trainer.use_vllm:
        return "vLLM generates, and shares prompts in its own way."
    if trainer._dist.is_zero3 and not trainer.args.ds3_gather_for_generation:
        return "ZeRO-3 without ds3_gather_for_generation needs every process to make the same calls."
    given = {name: value for name, value in trainer.generation_kwargs.items() if value is not None}
    name = refuses(model.generation_config.to_dict() | given)
    return None if name is None else f"generation setting {name!r} is for transformers' own loop."


def tower_learns(model: Any) -> bool:
    """Whether any weight outside the language model and its head is trained."""
    language = [model.get_decoder(), model.get_input_embeddings(), model.get_output_embeddings()]
    known = {id(parameter) for module in language for parameter in module.parameters()}
    return any(weight.requires_grad for weight in model.parameters() if id(weight) not in known)


def is_sharded(trainer: Any) -> bool:
    """Whether the weights of a trainer are sharded over processes."""
    return bool(trainer.is_fsdp_enabled or trainer._dist.is_zero3)


@contextmanager
def gathered(model: Any, *, reshards: bool) -> Iterator[None]:
    """Gather all weights of an FSDP2 model, so that processes may run different calls. Other models are unchanged.

    TRL does the same for ZeRO-3 (`ds3_gather_for_generation`), but lets FSDP2 gather its weights layer by layer.

    Args:
        model: The model with its wrappers.
        reshards: The run's `reshard_after_forward` setting, which is restored at the end.
    """
    modules = [module for module in model.modules() if isinstance(module, FSDPModule)]
    if modules:
        # The first forward pass of the root module does this, but generation may call inner modules earlier.
        modules[0]._get_fsdp_state()._lazy_init()
    for module in modules:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in modules:
            module.set_reshard_after_forward(reshards, recurse=False)
            module.reshard()


def forget_unused_renames(model: Any) -> None:
    """Keep only the tensor renames that loading has applied, so that saving restores the base model's tensor names.

    When transformers 5.23 loads a model under ZeRO-3, it keeps unused renames and later saves names such as
    `model.model.layers`. Its usual loading removes them.
    """
    conversions = getattr(model, "_weight_conversions", None)
    if conversions:
        model._weight_conversions = [conversion for conversion in conversions if conversion.was_used()]


def most_of_all(accelerator: Any, count: int) -> int:
    """The largest `count` over all processes. This is a collective operation."""
    return int(accelerator.gather(torch.tensor([count], device=accelerator.device)).max())


def blank_messages() -> list[dict[str, Any]]:
    """Chat messages with a small gray image, for a process whose rows have no image."""
    image = Image.new("RGB", (56, 56), (128, 128, 128))
    return [{"role": "user", "content": [{"type": "image", "image": image}, {"type": "text", "text": "-"}]}]


_TOKEN_TYPES = ("token_type_ids", "mm_token_type_ids", "moe_mm_token_type_ids")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One processed prompt."""

    ids: list[int]
    """Its token ids, including image placeholders."""
    images: list[Any] | None
    """Its images; None if it has none."""
    key: str
    """Cache key of its images. Equal images in equal order give equal keys."""
    fields: Mapping[str, Any]
    """Further outputs of the processor: token types as lists, other outputs as tensors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedBatch:
    """The prompts of a batch, and the prompt that each row completes."""

    prompts: tuple[Prompt, ...]
    owner: tuple[int, ...]
    """Index in `prompts` of each row's prompt. Rows of a prompt are adjacent."""
    moving: tuple[int, ...] | None = None
    """Rows for which the update computes log-probabilities; None for all rows."""
    old_logps: Tensor | None = None
    """(B, C) log-probabilities under the policy that generated the rows; used for rows that are not computed."""

    def take(self, rows: Iterable[int]) -> SharedBatch:
        """A batch with only these rows and the same prompts."""
        return SharedBatch(prompts=self.prompts, owner=tuple(self.owner[row] for row in rows))

    def groups(self) -> tuple[list[Prompt], list[int]]:
        """The prompt of each group of adjacent rows, and the sizes of the groups."""
        runs = [(self.prompts[number], len(list(run))) for number, run in itertools.groupby(self.owner)]
        return [prompt for prompt, _ in runs], [size for _, size in runs]

    def illustrated(self) -> list[bool]:
        """Whether the prompt of each row has an image."""
        return [bool(self.prompts[number].images) for number in self.owner]

    def shuffled(self) -> list[int]:
        """A random order of the rows that keeps rows of a prompt together; uses torch's global random state."""
        order = torch.randperm(len(self.owner))
        rank = torch.randperm(len(self.prompts))[torch.tensor(self.owner)[order]]
        return [int(row) for row in order[torch.argsort(rank, stable=True)]]


def distinct(prompts: Sequence[Any]) -> tuple[list[int], list[int]]:
    """Find the groups: runs of adjacent rows with equal prompts.

    Args:
        prompts: The prompt of each row: chat messages that contain their images, or a text.

    Returns:
        The first row of each run, and the index of each row's run.
    """
    new = [row == 0 or not _equal(prompts[row - 1], prompt) for row, prompt in enumerate(prompts)]
    firsts = [row for row, begins in enumerate(new) if begins]
    return firsts, [number - 1 for number in itertools.accumulate(map(int, new))]


def _equal(prompt: Any, other: Any) -> bool:
    try:
        return bool(prompt == other)
    except ValueError:
        # Prompts with images given as arrays. Treating them as unequal only costs speed.
        return False


def images_key(images: Sequence[Any] | None) -> str:
    """Cache key of a list of images; "" without images. Equal images in equal order give equal keys."""
    return "|".join(map(_image_key, images or ()))


def _image_key(image: Any) -> str:
    if isinstance(image, Image.Image):
        # The pixels of a palette image are indices of colors.
        pixels = image.convert("RGBA") if image.mode in ("P", "PA") else image
        header, content = f"{image.mode} {image.size}", pixels.tobytes()
    elif isinstance(image, np.ndarray | Tensor):
        array = np.ascontiguousarray(image)
        header, content = f"{array.dtype} {array.shape}", array.tobytes()
    else:
        # Other objects are equal only to themselves, which only costs speed.
        return f"object {id(image)}"
    return header + hashlib.blake2b(content, digest_size=16).hexdigest()


def processed(ids: Sequence[int], images: Sequence[Any] | None, fields: Mapping[str, Any], device: Any) -> Prompt:
    """Make a `Prompt` from the processor outputs of a single prompt. Tensors are moved to the device."""

    def field(name: str, value: Any) -> Any:
        if name in _TOKEN_TYPES:
            return [int(kind) for kind in value[0]]
        return (value if torch.is_tensor(value) else torch.tensor(np.array(value))).to(device)

    return Prompt(
        ids=[int(token) for token in ids],
        images=list(images) if images else None,
        key=images_key(images),
        fields={name: field(name, value) for name, value in fields.items()},
    )


def process_together(
    processor: Any, texts: Sequence[str], images: Sequence[Sequence[Any]], device: Any
) -> list[Prompt]:
    """Process prompts in one call if the outputs can be split by prompt (Qwen's can), otherwise one by one.

    Prompts with and without images are processed in separate calls.

    Args:
        processor: Processor of the policy.
        texts: Rendered conversations.
        images: Images of each conversation in order; empty if it has none.
        device: Device of the tensors.
    """
    prompts: dict[int, Prompt] = {}
    for illustrated in (True, False):
        rows = [row for row, pictures in enumerate(images) if bool(pictures) == illustrated]
        if rows:
            outputs = _call(processor, [texts[row] for row in rows], [images[row] for row in rows])
            for row, (ids, fields) in zip(rows, outputs, strict=True):
                pictures = list(images[row]) or None
                tensors = {n: v.to(device) if torch.is_tensor(v) else v for n, v in fields.items()}
                prompts[row] = Prompt(ids=ids, images=pictures, key=images_key(pictures), fields=tensors)
    return [prompts[row] for row in range(len(texts))]


def _call(
    processor: Any, texts: Sequence[str], images: Sequence[Sequence[Any]]
) -> list[tuple[list[int], dict[str, Any]]]:
    """Token ids and other outputs of each prompt. Either all prompts must have images, or none."""
    pictures = [list(some) for some in images] if images[0] else None
    outputs = dict(processor(text=list(texts), images=pictures, padding=True, padding_side="left", return_tensors="pt"))
    known = {"input_ids", "attention_mask", *_TOKEN_TYPES, *(("pixel_values", "image_grid_thw") if pictures else ())}
    if set(outputs) - known and len(texts) > 1:
        return [row for text, some in zip(texts, images, strict=True) for row in _call(processor, [text], [some])]
    real = outputs.pop("attention_mask").bool()
    by_row: dict[str, Sequence[Any]] = {"input_ids": _stripped(outputs.pop("input_ids"), real)}
    by_row |= {n: _stripped(outputs.pop(n), real) for n in _TOKEN_TYPES if n in outputs}
    if len(texts) == 1:
        by_row |= {name: [value] for name, value in outputs.items()}
    elif pictures:
        counts = [len(some) for some in pictures]
        by_row["image_grid_thw"] = outputs["image_grid_thw"].split(counts)
        sizes = [int(grid.prod(1).sum()) for grid in by_row["image_grid_thw"]]
        by_row["pixel_values"] = outputs["pixel_values"].split(sizes)
    rows = [{name: values[row] for name, values in by_row.items()} for row in range(len(texts))]
    return [(row.pop("input_ids"), row) for row in rows]


def _stripped(values: Tensor, real: Tensor) -> list[list[int]]:
    return [[int(value) for value in row[keep]] for row, keep in zip(values, real, strict=True)]


def joined(prompts: Sequence[Prompt], *, token_types: bool = False) -> dict[str, Any]:
    """Join the processor outputs of several prompts, as if one call had processed them all.

    Args:
        prompts: Prompts in order. Prompts without images contribute only token types.
        token_types: Whether to include the token types, one list per prompt.
    """
    result: dict[str, Any] = {}
    for name in dict.fromkeys(name for prompt in prompts for name in prompt.fields):
        if name in _TOKEN_TYPES:
            if token_types:
                result[name] = [prompt.fields.get(name) or [0] * len(prompt.ids) for prompt in prompts]
        else:
            result[name] = _stacked([prompt.fields[name] for prompt in prompts if name in prompt.fields])
    return result


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """Concatenate along the first axis; pad the other axes with zeros, as processors do for unequal counts."""
    shape = [max(lengths) for lengths in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    result = tensors[0].new_zeros((sum(map(len, tensors)), *shape))
    start = 0
    for tensor in tensors:
        result[start : start + len(tensor), *(slice(length) for length in tensor.shape[1:])] = tensor
        start += len(tensor)
    return result


def split(scored: Mapping[str, Any], order: Sequence[int], count: int) -> list[dict[str, Any]]:
    """Split a scored batch into equal parts of rows, in this order. Values without a row axis go to every part."""
    size = len(order) // count

    def of(value: Any, rows: Sequence[int]) -> Any:
        if isinstance(value, SharedBatch):
            return value.take(rows)
        return value[list(rows)] if torch.is_tensor(value) and value.ndim > 0 else value

    chosen = [order[start : start + size] for start in range(0, count * size, size)]
    return [{name: of(value, rows) for name, value in scored.items()} for rows in chosen]


class FeatureStore:
    """LRU cache in main memory for image features that do not change during a run, of limited size."""

    def __init__(self, megabytes: float) -> None:
        self._budget = megabytes * 1e6
        self._size = 0
        self._stored: OrderedDict[str, ImageFeatures] = OrderedDict()

    def get(
        self,
        prompts: Sequence[Prompt],
        encode: Callable[[Prompt], ImageFeatures],
        device: Any,
        *,
        tower: str = "",
    ) -> ImageFeatures:
        """Features of the prompts' images, joined in order. Missing features are encoded and stored.

        Args:
            prompts: Prompts in order. Prompts without images are skipped.
            encode: Function that encodes the images of one prompt; called without gradients.
            device: Device of the result.
            tower: Name of the vision tower, if the cache is used for several.
        """
        result: ImageFeatures = []
        for prompt in prompts:
            if prompt.images is None:
                continue
            key = tower + prompt.key
            features = self._stored.get(key)
            if features is None:
                with torch.no_grad():
                    features = encode(prompt)
                self._store(key, features)
            else:
                self._stored.move_to_end(key)
            result += [tuple(level.to(device) for level in entry) for entry in features]
        return result

    def missing(self, prompts: Sequence[Prompt], *, tower: str = "") -> list[Prompt]:
        """One prompt for each distinct list of images whose features are not stored."""
        absent = {prompt.key: prompt for prompt in prompts if prompt.images and tower + prompt.key not in self._stored}
        return list(absent.values())

    def put(self, prompt: Prompt, features: ImageFeatures) -> None:
        """Store the features of a prompt's images."""
        if prompt.key not in self._stored:
            self._store(prompt.key, features)

    def _store(self, key: str, features: ImageFeatures) -> None:
        self._stored[key] = [tuple(level.detach().cpu() for level in entry) for entry in features]
        self._size += _bytes(features)
        while self._size > self._budget:
            _, oldest = self._stored.popitem(last=False)
            self._size -= _bytes(oldest)

    def __len__(self) -> int:
        return len(self._stored)


def _bytes(features: ImageFeatures) -> int:
    return sum(level.nbytes for entry in features for level in entry)
