"""What the GRPO trainer keeps of a batch whose rows share prompts: each prompt once, and what does not change."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from medvlm_r1.models.sharing.forward import ImageFeatures

_TOKEN_TYPES = ("token_type_ids", "mm_token_type_ids", "moe_mm_token_type_ids")


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """One prompt as the processor made it."""

    ids: list[int]
    """Its tokens, the placeholders of its images among them."""
    images: list[Any] | None
    """Its images, None without."""
    key: str
    """Names its images: equal for equal images in equal order."""
    fields: Mapping[str, Any]
    """What the processor gave beside the ids: token types as lists, all else as tensors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedBatch:
    """Which prompt each row of a batch completes."""

    prompts: tuple[Prompt, ...]
    owner: tuple[int, ...]
    """For each row the number of its prompt; rows of a prompt are adjacent where it matters."""

    def take(self, rows: Iterable[int]) -> SharedBatch:
        """The batch of these rows."""
        return SharedBatch(prompts=self.prompts, owner=tuple(self.owner[row] for row in rows))

    def groups(self) -> tuple[list[Prompt], list[int]]:
        """The prompt of each run of rows that share one, and the lengths of the runs."""
        runs = [(self.prompts[number], len(list(run))) for number, run in itertools.groupby(self.owner)]
        return [prompt for prompt, _ in runs], [size for _, size in runs]

    def illustrated(self) -> list[bool]:
        """For each row whether its prompt has an image."""
        return [bool(self.prompts[number].images) for number in self.owner]

    def shuffled(self) -> list[int]:
        """A random order of the rows in which the rows of a prompt stay together (from torch's random state)."""
        order = torch.randperm(len(self.owner))
        rank = torch.randperm(len(self.prompts))[torch.tensor(self.owner)[order]]
        return [int(row) for row in order[torch.argsort(rank, stable=True)]]


def distinct(prompts: Sequence[Any]) -> tuple[list[int], list[int]]:
    """The first row of each run of equal prompts, and for each row the number of its run.

    Args:
        prompts: chat messages (images among them) or texts.
    """
    name = _Names()
    runs = [list(run) for _, run in itertools.groupby(range(len(prompts)), key=lambda row: name(prompts[row]))]
    return [run[0] for run in runs], [number for number, run in enumerate(runs) for _ in run]


def images_key(images: Sequence[Any] | None) -> str:
    """A name of images in order, equal for equal ones."""
    return _Names()(images) if images else ""


class _Names:
    """Names of nested lists and mappings by content; an image object seen before is not read again."""

    def __init__(self) -> None:
        self._seen: dict[int, str] = {}

    def __call__(self, value: Any) -> str:
        return json.dumps(value, default=self._other)

    def _other(self, value: Any) -> str:
        if id(value) not in self._seen:
            if isinstance(value, Image):
                # The values of a palette image are numbers of colours.
                pixels = value.convert("RGBA") if value.mode in ("P", "PA") else value
                kind, content = f"{value.mode} {value.size}", pixels.tobytes()
            elif isinstance(value, np.ndarray | Tensor):
                array = np.ascontiguousarray(value)
                kind, content = f"{array.dtype} {array.shape}", array.tobytes()
            else:
                # Equal to itself alone, which costs speed and nothing else.
                kind, content = f"object {id(value)}", b""
            self._seen[id(value)] = kind + hashlib.blake2b(content, digest_size=16).hexdigest()
        return self._seen[id(value)]


def processed(ids: Sequence[int], images: Sequence[Any] | None, fields: Mapping[str, Any], device: Any) -> Prompt:
    """A prompt from what a processor gave for it alone; tensors go to the device."""

    def kept(name: str, value: Any) -> Any:
        if name in _TOKEN_TYPES:
            return [int(kind) for kind in value[0]]
        return (value if torch.is_tensor(value) else torch.tensor(np.array(value))).to(device)

    return Prompt(
        ids=[int(token) for token in ids],
        images=list(images) if images else None,
        key=images_key(images),
        fields={name: kept(name, value) for name, value in fields.items()},
    )


def process_together(
    processor: Any, texts: Sequence[str], images: Sequence[Sequence[Any]], device: Any
) -> list[Prompt]:
    """Process prompts, in one call of the processor where its outputs can be told apart again (Qwen's can).

    Args:
        processor: the policy's.
        texts: the rendered conversations.
        images: of each, in order; for some none.
        device: where tensors go.
    """
    name = _Names()
    keys = [name(list(shown)) if shown else "" for shown in images]
    prompts: dict[int, Prompt] = {}
    for illustrated in (True, False):
        chosen = [place for place, shown in enumerate(images) if bool(shown) == illustrated]
        if chosen:
            made = _call(processor, [texts[place] for place in chosen], [images[place] for place in chosen])
            for place, (ids, fields) in zip(chosen, made, strict=True):
                shown = list(images[place]) or None
                tensors = {n: v.to(device) if torch.is_tensor(v) else v for n, v in fields.items()}
                prompts[place] = Prompt(ids=ids, images=shown, key=keys[place], fields=tensors)
    return [prompts[place] for place in range(len(texts))]


def _call(
    processor: Any, texts: Sequence[str], images: Sequence[Sequence[Any]]
) -> list[tuple[list[int], dict[str, Any]]]:
    """Ids and other outputs of each prompt; either all have images or none."""
    shown = [list(some) for some in images] if images[0] else None
    made = dict(processor(text=list(texts), images=shown, padding=True, padding_side="left", return_tensors="pt"))
    whole = {"input_ids", "attention_mask", *_TOKEN_TYPES, *(("pixel_values", "image_grid_thw") if shown else ())}
    if set(made) - whole and len(texts) > 1:
        return [part for text, some in zip(texts, images, strict=True) for part in _call(processor, [text], [some])]
    real = made.pop("attention_mask").bool()
    by_row: dict[str, Sequence[Any]] = {"input_ids": _stripped(made.pop("input_ids"), real)}
    by_row |= {n: _stripped(made.pop(n), real) for n in _TOKEN_TYPES if n in made}
    if len(texts) == 1:
        by_row |= {name: [value] for name, value in made.items()}
    elif shown:
        counts = [len(some) for some in shown]
        by_row["image_grid_thw"] = made["image_grid_thw"].split(counts)
        by_row["pixel_values"] = made["pixel_values"].split([int(g.prod(1).sum()) for g in by_row["image_grid_thw"]])
    parts = [{name: values[row] for name, values in by_row.items()} for row in range(len(texts))]
    return [(part.pop("input_ids"), part) for part in parts]


def _stripped(values: Tensor, real: Tensor) -> list[list[int]]:
    return [[int(value) for value in row[keep]] for row, keep in zip(values, real, strict=True)]


def joined(prompts: Sequence[Prompt], *, token_types: bool = False) -> dict[str, Any]:
    """The processor's outputs of several prompts in order, as one call for all of them would give.

    Args:
        prompts: those without images add nothing but token types.
        token_types: also give the token types, one list a prompt.
    """
    result: dict[str, Any] = {}
    for name in dict.fromkeys(name for prompt in prompts for name in prompt.fields):
        if name in _TOKEN_TYPES:
            if token_types:
                result[name] = [prompt.fields.get(name) or [0] * len(prompt.ids) for prompt in prompts]
        else:
            result[name] = _stacked([prompt.fields[name] for prompt in prompts if name in prompt.fields])
    return result


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    """Joined along the first axis; the others are filled up with zeros, as processors do for unequal counts."""
    shape = [max(lengths) for lengths in zip(*(part.shape[1:] for part in parts), strict=True)]
    if any(list(part.shape[1:]) != shape for part in parts):
        parts = [_filled(part, shape) for part in parts]
    return torch.cat(list(parts))


def _filled(part: Tensor, shape: Sequence[int]) -> Tensor:
    whole = part.new_zeros((part.shape[0], *shape))
    whole[tuple(slice(length) for length in part.shape)] = part
    return whole


def split(scored: Mapping[str, Any], order: Sequence[int], parts: int) -> list[dict[str, Any]]:
    """A scored batch in equal parts of its rows, in this order; what belongs to the whole batch goes to each part."""
    size = len(order) // parts

    def of(value: Any, rows: Sequence[int]) -> Any:
        if isinstance(value, SharedBatch):
            return value.take(rows)
        return value[list(rows)] if torch.is_tensor(value) and value.ndim > 0 else value

    chosen = [order[part * size : (part + 1) * size] for part in range(parts)]
    return [{name: of(value, rows) for name, value in scored.items()} for rows in chosen]


class Processed:
    """A processor for prompts with images that are processed already: TRL's second call for them does nothing."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """TRL reads the number of axes of the pixels and passes them on; the `SharedBatch` has them."""
        return {"pixel_values": torch.empty(0)} if "images" in kwargs else self._processor(*args, **kwargs)


class FeatureStore:
    """Image features that stay the same while a run lasts, by the prompt's images; the least used are let go first.

    They are kept in main memory and count with their own size.
    """

    def __init__(self, megabytes: float) -> None:
        self._budget = megabytes * 1e6
        self._size = 0
        self._kept: OrderedDict[str, ImageFeatures] = OrderedDict()

    def get(self, prompts: Sequence[Prompt], encode: Callable[[Prompt], ImageFeatures], device: Any) -> ImageFeatures:
        """The features of the prompts' images, joined in order; what is missing is encoded and kept.

        Args:
            prompts: those without images are passed over.
            encode: gives the features of one prompt's images; called without gradients.
            device: where the features are wanted.
        """
        result: ImageFeatures = []
        for prompt in prompts:
            if prompt.images is None:
                continue
            found = self._kept.get(prompt.key)
            if found is None:
                with torch.no_grad():
                    found = encode(prompt)
                self._keep(prompt.key, found)
            else:
                self._kept.move_to_end(prompt.key)
            result += [tuple(part.to(device) for part in entry) for entry in found]
        return result

    def missing(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """One prompt for each set of images whose features are not kept."""
        absent = {prompt.key: prompt for prompt in prompts if prompt.images and prompt.key not in self._kept}
        return list(absent.values())

    def put(self, prompt: Prompt, features: ImageFeatures) -> None:
        """Keep the features of a prompt's images."""
        if prompt.key not in self._kept:
            self._keep(prompt.key, features)

    def _keep(self, key: str, features: ImageFeatures) -> None:
        self._kept[key] = [tuple(part.detach().cpu() for part in entry) for entry in features]
        self._size += _bytes(features)
        while self._size > self._budget:
            _, oldest = self._kept.popitem(last=False)
            self._size -= _bytes(oldest)

    def __len__(self) -> int:
        return len(self._kept)


def _bytes(features: ImageFeatures) -> int:
    return sum(part.numel() * part.element_size() for entry in features for part in entry)
