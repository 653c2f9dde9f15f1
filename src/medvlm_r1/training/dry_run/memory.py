"""Bytes on each device, by part.

Weights, gradients and optimizer state are exact for the precision and the sharding. Activations are what autograd keeps
of a forward pass, counted layer by layer below; the cache and the head's tile are the sizes of their tensors. What the
allocator loses to fragments, and short-lived tensors inside a layer, is not counted: `RUNTIME` stands for them and for
the libraries. So the sum is an estimate.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from medvlm_r1.training.dry_run.counts import Text, Tower
from medvlm_r1.training.dry_run.work import Model, Prompts, Run

RUNTIME = 1.5 * 2**30
"""Assumed for the CUDA context, the libraries' workspaces and what the allocator loses; ours, not measured on a GPU."""
RUNTIME_CPU = 0.95 * 2**30
"""Python with the libraries of a training, as `python -m benchmarks.step` measured it for 0.1 M weights."""
_TILE_TOKENS = 4096
"""TRL's `TOKEN_CHUNK_SIZE`: tokens of the head's tile at most."""
_TILE_SHARED, _TILE_PLAIN = 1024, 32768
"""Columns of the tile: `shared_logps`' `chunk`, and TRL's `VOCAB_CHUNK_SIZE`."""
_CACHE_ROOM = 128
"""Tokens a row of the cache is kept longer than it is (`shared_generation`)."""

Sharding = Literal["none", "zero2", "zero3", "fsdp2"]

# Bytes that autograd keeps for each token in a layer of a Llama-like decoder, by the width they go with: hidden, query,
# inner. Float32: the input of each of two norms (8), its normalised values (8) and the scaled ones, which are the
# input of the projections (8); queries and the output of attention (8); gate, up, their activation and product (16).
# Under autocast every projection keeps a bf16 copy of its float32 input: 5 of hidden (10) in place of 8. In bf16 norms
# keep a float32 copy of their input (8) and bf16 values twice (8). With adapters on frozen bf16 weights the norms keep
# their input alone (8), adapters the bf16 inputs of 5 projections (10), and of the output projection (2 more of query).
_TEXT = {"float32": (24, 8, 16), "autocast": (26, 4, 8), "half": (16, 4, 8), "adapters": (18, 6, 8)}
# In a block of a tower for each patch, by its width and by the width inside its feed-forward part. Layer norms are
# computed in float32 on a GPU under autocast and keep a copy of their input (on a CPU they do not, which is 4 less).
_TOWER = {
    "layer": {"float32": 44, "autocast": 26, "half": 26, "adapters": 26},
    "rms": {"float32": 52, "autocast": 32, "half": 30, "adapters": 30},
}
# The same for norms of queries and keys, head by head.
_HEAD_NORM = {"float32": 8, "autocast": 6, "half": 6, "adapters": 4}


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """The types a run computes in."""

    weights: int
    """Bytes of a weight."""
    compute: int
    """Bytes of an activation in a matrix product."""
    adapters: bool = False
    """Low-rank adapters are trained, in float32, and nothing else."""

    @property
    def kind(self) -> str:
        """The column of the tables above."""
        if self.weights == 4:
            return "float32" if self.compute == 4 else "autocast"
        return "adapters" if self.adapters else "half"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameters:
    """How many weights there are."""

    total: int
    """Of the model, adapters left out."""
    trained: int
    """That the optimizer moves, adapters among them."""
    adapters: int
    largest: int
    """Of the largest part that is gathered at once when weights are sharded: a layer, or the embedding and the head."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """How a run lies on its devices."""

    precision: Precision
    processes: int = 1
    sharding: Sharding = "none"
    optimizer: str = "adamw_torch_fused"
    vllm_share: float = 0.0
    """Share of a device's memory that a colocated vLLM takes."""
    vllm_sleeps: bool = False
    """It gives its memory back during the update."""
    cpu: bool = False
    """The device is a CPU, whose memory holds the libraries too."""

    @property
    def weight(self) -> int:
        """Bytes of a weight of the model's own."""
        return 2 if self.deepspeed and self.precision.compute == 2 else self.precision.weights

    @property
    def learned(self) -> int:
        """Bytes of a weight that learns, and of its gradient."""
        return 4 if self.precision.adapters and not self.deepspeed else self.weight

    @property
    def deepspeed(self) -> bool:
        """Under DeepSpeed the weights are bf16 and the optimizer keeps float32 ones."""
        return self.sharding in ("zero2", "zero3")


def optimizer_bytes(optimizer: str, weight: int) -> float:
    """Bytes of optimizer state for each trained weight of so many bytes.

    Adam keeps two moments in the type of the weight (torch.optim), its 8-bit forms two bytes (Dettmers et al., arXiv
    2110.02861), Adafactor about none (rows and columns alone), SGD none without momentum.
    """
    name = optimizer.lower()
    if "8bit" in name:
        return 2.0
    if "adafactor" in name or name == "sgd":
        return 0.0
    return 2.0 * weight


def text_bytes(text: Text, precision: Precision) -> float:
    """What a decoder layer keeps for each token, its keys and values left out (`keys_bytes`).

    The log-sum of attention, 4 bytes for each head, comes on top of the table.
    """
    hidden, query, inner = _TEXT[precision.kind]
    kept = hidden * text.hidden + query * text.query + inner * text.inner + 4 * text.heads
    if text.head_normed:
        kept += _HEAD_NORM[precision.kind] * (text.query + text.keys)
    return float(kept)


def keys_bytes(text: Text, precision: Precision) -> float:
    """Keys and values of one token in one layer, as attention keeps them.

    transformers repeats the heads of keys and values for attention with a mask (`use_gqa_in_sdpa`), so they are as wide
    as the queries.
    """
    return 2.0 * precision.compute * text.query


def tower_bytes(tower: Tower, precision: Precision) -> float:
    """What a block of the tower keeps for each patch."""
    width = _TOWER[tower.norm][precision.kind]
    return float(width * tower.width + tower.inner_kept * precision.compute * tower.inner + 4 * tower.heads)


def activations(model: Model, prompts: Prompts, run: Run, precision: Precision, *, shared: bool) -> dict[str, float]:
    """Bytes autograd keeps of one forward pass of the update, for the longest prompt with the longest completions.

    Rows without sharing are padded to [prompt, completion] each. With sharing the packed row holds each prompt once;
    attention still keeps keys and values of [prompt, completion] for every completion (`models.sharing.attention`).
    With checkpointing every layer keeps its input, and one layer at a time keeps all of the above.

    Returns:
        Bytes of `text` and `tower`.
    """
    text, tower, rows = model.text, model.tower, run.batch.rows
    length = prompts.longest + run.completion
    count = run.batch.prompts_in(rows) if shared else rows
    tokens = count * prompts.longest + rows * run.completion if shared else rows * length
    keys = rows * length + (count * prompts.longest if shared else 0)
    layer = tokens * text_bytes(text, precision) + keys * keys_bytes(text, precision)
    block = count * prompts.most_patches * tower_bytes(tower, precision)
    stream = 4 if precision.weights == 4 else 2
    if run.checkpointing:
        kept = text.layers * tokens * text.hidden * stream + layer
        seen = tower.blocks * count * prompts.most_patches * tower.width * stream + block
    else:
        kept, seen = text.layers * layer, tower.blocks * block
    return {"text": kept, "tower": seen if model.tower_learns else 0.0}


def parts(
    model: Model, parameters: Parameters, prompts: Prompts, run: Run, placement: Placement, *, shared: bool
) -> dict[str, float]:
    """Bytes on a device by part; `phases` adds what is there at one time.

    ZeRO-2 shards gradients and optimizer state, ZeRO-3 and FSDP2 weights too (Rajbhandari et al., arXiv 1910.02054);
    what is gathered at once then comes on top.
    """
    precision, n = placement.precision, placement.processes
    weight, learned = placement.weight, placement.learned
    shards = n if placement.sharding in ("zero3", "fsdp2") else 1
    slices = n if placement.sharding != "none" else 1
    state = optimizer_bytes(placement.optimizer, 4 if placement.deepspeed else learned)
    master = 4.0 if placement.deepspeed and weight == 2 else 0.0
    copied = parameters.total if precision.compute < weight else 0
    copied += parameters.adapters if precision.compute < learned else 0
    kept = activations(model, prompts, run, precision, shared=shared)
    scored = run.batch.rows * run.completion
    tile = min(scored, _TILE_TOKENS) * (_TILE_SHARED if shared else _TILE_PLAIN) * precision.compute
    head = tile + 4.0 * scored * model.text.hidden
    if model.trained.head:
        head += 4.0 * model.text.hidden * model.text.vocabulary
    result = {
        "weights": (parameters.total * weight + parameters.adapters * learned) / shards,
        "gathered": parameters.largest * precision.compute if shards > 1 else 0.0,
        "gradients": parameters.trained * learned / slices,
        # DistributedDataParallel averages gradients in buckets of their own.
        "buckets": parameters.trained * learned if n > 1 and slices == 1 else 0.0,
        "optimizer": parameters.trained * (state + master) / slices,
        "reference": parameters.total * weight / shards if run.reference and not precision.adapters else 0.0,
        # Autocast keeps a copy of every float32 weight that learns until the forward pass is over, adapters among them;
        # FSDP2 gathers in bf16.
        "copies": copied * precision.compute if shards == 1 else 0.0,
        "activations": kept["text"] + kept["tower"],
        "head": head,
        "cache": 0.0,
        "logits": 0.0,
        "runtime": RUNTIME_CPU if placement.cpu else RUNTIME,
    }
    if run.generates and not run.prefix_cached:
        rows = run.batch.rows * run.batch.passes_per_generation
        long = prompts.longest + run.completion + (_CACHE_ROOM if shared else 0)
        result["cache"] = rows * long * model.text.layers * 2.0 * model.text.keys * precision.compute
        # The model's own, their float32 copy, the processed scores and their softmax.
        result["logits"] = rows * model.text.vocabulary * (precision.compute + 3 * 4.0)
    return result


def phases(part: dict[str, float], placement: Placement, memory: float | None = None) -> dict[str, float]:
    """Bytes at two times: while completions are written (`generation`), and at the fullest of the `update`.

    Args:
        part: What `parts` gave.
        placement: The placement.
        memory: Bytes of the card, of which a colocated vLLM takes its share.
    """
    always = sum(part[name] for name in ("weights", "gathered", "optimizer", "reference", "runtime"))
    vllm = placement.vllm_share * (memory or 0.0)
    update = sum(part[name] for name in ("gradients", "buckets", "copies", "activations", "head"))
    return {
        "generation": always + part["cache"] + part["logits"] + vllm,
        "update": always + update + (0.0 if placement.vllm_sleeps else vllm),
    }
