"""Compare the log-probabilities and gradients of the shared forward pass with the plain one, for every model family.

`families.yaml` describes a tiny model with random weights for each family, and the layout of its inputs.
Token ids and pixels are random, so no processor is needed.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor
from torch.nn.functional import pad
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModelForImageTextToText

from medvlm_r1.models.sharing.forward import shared_logps

VOCABULARY, IMAGE = 97, 7


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt: the number of text tokens before the images, and the (height, width) of each image in tokens."""

    text: int
    sizes: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Tiny:
    """Configuration of a tiny model of a family, and functions that build its inputs."""

    config: dict[str, Any]
    tokens: int | None
    """Number of tokens of an image; None if it has height x width tokens."""
    pixels: Callable[[Sequence[Prompt]], dict[str, torch.Tensor]]
    """Returns what the processor would return for the images of some prompts, as one batch."""
    types: str | None
    """Name of an input of the plain forward pass that marks image tokens, if there is one."""

    def model(self, attention: str = "sdpa", **changes: Any) -> Any:
        """Build the model. Its random weights are large, so that a wrong position or mask changes the output."""
        config = AutoConfig.for_model(**copy.deepcopy({**self.config, **changes}))
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config, attn_implementation=attention)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.dim() > 1:
                    weight.normal_(0, 0.8 / weight[0].numel() ** 0.5)
                else:
                    weight.add_(torch.randn_like(weight), alpha=0.1)
        return model.train()

    def extra(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """Further inputs of the plain forward pass for token ids."""
        return {self.types: (ids == IMAGE).int()} if self.types else {}

    def ids(self, prompt: Prompt) -> torch.Tensor:
        """Token ids of a prompt: text, then each image between its start and end token, then two text tokens."""
        pieces = [torch.randint(10, VOCABULARY, (prompt.text,))]
        for size in prompt.sizes:
            pieces += [torch.tensor([5]), torch.full((self.tokens or size[0] * size[1],), IMAGE), torch.tensor([6])]
        return torch.cat([*pieces, torch.randint(10, VOCABULARY, (2,))])


def _patches(prompts: Sequence[Prompt]) -> dict[str, torch.Tensor]:
    """Qwen inputs: flattened patches of images of any size, with 2 x 2 patches per token."""
    grids = [[1, 2 * height, 2 * width] for prompt in prompts for height, width in prompt.sizes]
    if not grids:
        return {}
    return {
        "pixel_values": torch.cat([_seeded(h * w, 96, key=h * 10 + w) for _, h, w in grids]),
        "image_grid_thw": torch.tensor(grids),
    }


def _squares(prompts: Sequence[Prompt]) -> dict[str, torch.Tensor]:
    """Images (or tiles) of 16 x 16 pixels."""
    images = [_seeded(3, 16, 16, key=h * 10 + w) for prompt in prompts for h, w in prompt.sizes]
    return {"pixel_values": torch.stack(images)} if images else {}


def _tiles(prompts: Sequence[Prompt]) -> dict[str, torch.Tensor]:
    """SmolVLM inputs: the tiles of each prompt, zero-padded to the largest number of tiles."""
    rows = [_squares([prompt]).get("pixel_values", torch.zeros(0, 3, 16, 16)) for prompt in prompts]
    pixels = pad_sequence(rows, batch_first=True)
    mask = pad_sequence([torch.ones(len(row), 16, 16, dtype=torch.bool) for row in rows], batch_first=True)
    return {"pixel_values": pixels, "pixel_attention_mask": mask} if pixels.shape[1] else {}


def _padded(prompts: Sequence[Prompt]) -> dict[str, torch.Tensor]:
    """Mistral 3 inputs: images of any size, zero-padded to the largest, with 2 x 2 patches per token."""
    sizes = torch.tensor([size for prompt in prompts for size in prompt.sizes]) * 8
    if not len(sizes):
        return {}
    high, wide = sizes.amax(dim=0).tolist()
    images = [pad(_seeded(3, h, w, key=h * 10 + w), (0, wide - w, 0, high - h)) for h, w in sizes.tolist()]
    return {"pixel_values": torch.stack(images), "image_sizes": sizes}


def _seeded(*shape: int, key: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(key))


_IMAGES = {"patches": _patches, "squares": _squares, "tiles": _tiles, "padded": _padded}
_FAMILIES = yaml.safe_load(Path(__file__).with_name("families.yaml").read_text(encoding="utf-8"))["families"]
TINY = {
    kind: Tiny({"model_type": kind, **row["config"]}, row.get("tokens"), _IMAGES[row["images"]], row.get("types"))
    for kind, row in _FAMILIES.items()
}
"""Tiny models by `config.model_type`."""

LOGPS, GRADIENTS = 1e-5, 1e-4
"""Limits in float32: absolute difference of the log-probabilities, and relative difference of the gradients."""
ROUNDING = 2.0
"""Limit in bfloat16: error of the shared forward pass relative to float32, as a multiple of the plain one's error."""

Group = tuple[Prompt, Sequence[int]]
"""A prompt, and the number of tokens of each of its completions."""
GROUPS: tuple[Group, ...] = ((Prompt(4, ((2, 3),)), (5, 1, 3)), (Prompt(1, ((1, 1), (3, 2))), (2, 6)))


@dataclass(frozen=True, slots=True)
class Rows:
    """A batch in TRL's layout, and the prompts and completions it was built from."""

    groups: list[Group]
    prompts: list[Tensor]
    completions: list[list[Tensor]]
    inputs: dict[str, Any]
    """Arguments of `shared_logps`."""


def make_rows(family: str, groups: Sequence[Group]) -> Rows:
    """Build a batch with random tokens for the prompts and completions of `groups`, padded on both sides."""
    torch.manual_seed(1)
    prompts = [TINY[family].ids(prompt) for prompt, _ in groups]
    completions = [[torch.randint(10, VOCABULARY, (n,)) for n in lengths] for _, lengths in groups]
    before = max(len(ids) for ids in prompts) + 2
    after = max(max(lengths) for _, lengths in groups) + 1
    ids = torch.zeros(sum(len(group) for group in completions), before + after, dtype=torch.long)
    mask = torch.zeros_like(ids)
    pairs = [(p, c) for p, group in zip(prompts, completions, strict=True) for c in group]
    for row, (prompt, completion) in enumerate(pairs):
        ids[row, before - len(prompt) : before + len(completion)] = torch.cat([prompt, completion])
        mask[row, before - len(prompt) : before + len(completion)] = 1
    inputs = {
        "input_ids": ids,
        "attention_mask": mask,
        "logits_to_keep": after,
        "group_sizes": [len(group) for group in completions],
        "vision": TINY[family].pixels([prompt for prompt, _ in groups]),
    }
    return Rows(list(groups), prompts, completions, inputs)


def plain_logps(model: Any, family: str, rows: Rows, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Log-probabilities and entropies (N,) of all completion tokens. Each row has its own plain forward pass."""
    logps, entropies = [], []
    for (prompt, _), ids, completions in zip(rows.groups, rows.prompts, rows.completions, strict=True):
        for completion in completions:
            row = torch.cat([ids, completion])[None]
            inputs = _on(model, {**TINY[family].pixels([prompt]), **TINY[family].extra(row), "input_ids": row})
            logits = model(attention_mask=torch.ones_like(inputs["input_ids"]), **inputs).logits[0].float()
            scores = (logits[len(ids) - 1 : -1] / temperature).log_softmax(-1)
            logps.append(scores.gather(-1, completion[:, None].to(scores.device))[:, 0])
            entropies.append(-(scores.exp() * scores).sum(-1))
    return torch.cat(logps), torch.cat(entropies)


def _on(model: Any, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Move inputs to the model's device, and convert floating-point inputs to its dtype."""
    return {
        name: value.to(model.device, model.dtype if value.is_floating_point() else None)
        for name, value in inputs.items()
    }


def _shared_logps(model: Any, family: str, rows: Rows) -> tuple[Tensor, None]:
    """Like `plain_logps`, but with one shared forward pass, and without the entropies."""
    tensors = {name: value for name, value in rows.inputs.items() if isinstance(value, Tensor)}
    inputs = {**rows.inputs, **_on(model, tensors), "vision": _on(model, rows.inputs["vision"])}
    logps, _ = shared_logps(model, **inputs)
    return logps[inputs["attention_mask"][:, -inputs["logits_to_keep"] :].bool()], None


def _measure(forward: Any, model: Any, family: str, rows: Rows) -> tuple[Tensor, Tensor]:
    """Log-probabilities (N,), and the flattened gradient of a weighted sum of them. Both are in float64."""
    model.zero_grad(set_to_none=True)
    logps, _ = forward(model, family, rows)
    (torch.linspace(-1, 2, len(logps), device=logps.device) * logps).sum().backward()
    grads = [weight.grad for weight in model.parameters()]
    missing = [torch.zeros_like(weight) for weight in model.parameters()]
    flat = torch.cat([(zero if g is None else g).flatten() for g, zero in zip(grads, missing, strict=True)])
    return logps.detach().double().cpu(), flat.double().cpu()


def _distances(values: tuple[Tensor, Tensor], reference: tuple[Tensor, Tensor]) -> tuple[float, float]:
    """Largest absolute difference of the log-probabilities, and relative difference of the gradients."""
    logps, grads = values
    return (
        float((logps - reference[0]).abs().max()),
        float((grads - reference[1]).norm() / reference[1].norm()),
    )


def compare(family: str, dtype: torch.dtype, device: str) -> tuple[bool, str]:
    """Compare the shared forward pass of a tiny model with its plain forward pass.

    In float32 the two must agree within `LOGPS` and `GRADIENTS`. In bfloat16 both are compared with the plain forward
    pass of the same weights in float32. The error of the shared pass may be `ROUNDING` times that of the plain pass.

    Args:
        family: A key of `models.families.FAMILIES`.
        dtype: float32 or bfloat16.
        device: "cpu" or "cuda".

    Returns:
        Whether they agree, and a text with the differences.
    """
    rows = make_rows(family, GROUPS)
    model = TINY[family].model().to(device, dtype)
    shared = _measure(_shared_logps, model, family, rows)
    plain = _measure(plain_logps, model, family, rows)
    if dtype == torch.float32:
        logps, grads = _distances(shared, plain)
        return (
            logps <= LOGPS and grads <= GRADIENTS,
            f"log-probabilities differ by at most {logps:.1e} (limit {LOGPS:.0e}), gradients by {grads:.1e} "
            f"(limit {GRADIENTS:.0e})",
        )
    reference = _measure(plain_logps, copy.deepcopy(model).float(), family, rows)
    ours, theirs = _distances(shared, reference), _distances(plain, reference)
    return (
        all(a <= ROUNDING * b + 1e-3 for a, b in zip(ours, theirs, strict=True)),
        f"distance from float32: log-probabilities {ours[0]:.1e} (plain forward {theirs[0]:.1e}), gradients "
        f"{ours[1]:.1e} ({theirs[1]:.1e}); limit {ROUNDING:g} times the plain forward's",
    )
