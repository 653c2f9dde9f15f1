"""Memory of each device, by part (weights, gradients, activations, ...).

Weights, gradients and optimizer state are exact for the precision and the sharding. Activations are the tensors that
autograd saves in a forward pass, counted per layer below. KV cache and LM-head tile are the sizes of their tensors.
Allocator fragmentation and short-lived tensors inside a layer are not computed. `RUNTIME` is a flat allowance for them
and for the libraries. The sum is therefore an estimate.
"""

import os

from medvlm_r1.models.device import head_columns
from medvlm_r1.training.dry_run.settings import Run
from medvlm_r1.training.dry_run.shape import Prompts, Shape

RUNTIME = 1.5 * 2**30
"""Bytes assumed for the CUDA context, library workspaces and fragmentation. The value was not measured on a GPU."""
RUNTIME_CPU = 0.95 * 2**30
"""Bytes of a Python process with the training libraries. Measured by `python -m benchmarks.step` with 0.1 M weights."""
_TILE_TOKENS = 4096
"""Maximum number of tokens in a tile of the LM head (`TOKEN_CHUNK_SIZE` of TRL)."""
_TILE_PLAIN = 32768
"""Number of vocabulary columns in TRL's LM-head tile. `head_columns` gives the number for a shared forward."""
_CACHE_ROOM = 128
"""Spare tokens in each row of the KV cache (`shared_generation`)."""

# Bytes that autograd saves per token in a layer of a Llama-like decoder, for each unit of (hidden, query, inner) width.
# Float32: inputs of both norms (8), normalized values (8) and scaled values, which are the inputs of the projections
# (8); queries and attention output (8); gate, up, activation and product (16).
# Autocast: every projection saves a bf16 copy of its float32 input, 5 of width hidden (10) instead of 8.
# Half: norms save a float32 copy of their input (8) and two bf16 values (8).
# Adapters on frozen bf16 weights: norms save their input only (8), adapters the bf16 inputs of 5 projections (10) and
# of the output projection (2 more of query).
_TEXT = {"float32": (24, 8, 16), "autocast": (26, 4, 8), "half": (16, 4, 8), "adapters": (18, 6, 8)}
# The same per patch in a block of the tower, for each unit of its width; its feed-forward part is counted separately.
# Under autocast on a GPU, layer norms run in float32 and save a copy of their input (4 bytes more than on a CPU).
_TOWER = {
    "layer": {"float32": 44, "autocast": 26, "half": 26, "adapters": 26},
    "rms": {"float32": 52, "autocast": 32, "half": 30, "adapters": 30},
}
# The same for per-head norms of queries and keys.
_HEAD_NORM = {"float32": 8, "autocast": 6, "half": 6, "adapters": 4}


def optimizer_bytes(optimizer: str, weight: int) -> float:
    """Bytes of optimizer state per trained weight.

    Adam in torch.optim keeps two moments in the dtype of the weight. 8-bit Adam keeps two bytes (Dettmers et al., arXiv
    2110.02861). Adafactor keeps only row and column sums, which count as 0. SGD without momentum keeps no state.

    Args:
        optimizer: Name as in `trainer.optim`.
        weight: Bytes per trained weight.
    """
    name = optimizer.lower()
    if "8bit" in name:
        return 2.0
    if "adafactor" in name or name == "sgd":
        return 0.0
    return 2.0 * weight


def text_bytes(shape: Shape, run: Run) -> float:
    """Bytes that a decoder layer saves per token for the backward pass, except keys and values (`keys_bytes`).

    They are the bytes from the table `_TEXT` and the log-sum-exp of attention, which has 4 bytes per head.
    """
    hidden, query, inner = _TEXT[run.precision]
    saved = hidden * shape.hidden + query * shape.query + inner * shape.inner + 4 * shape.heads
    if shape.head_normed:
        saved += _HEAD_NORM[run.precision] * (shape.query + shape.keys)
    return float(saved)


def keys_bytes(shape: Shape, run: Run) -> float:
    """Bytes of the keys and values that attention saves per token and layer.

    transformers repeats key and value heads for attention with a mask (`use_gqa_in_sdpa`), so they are as wide as the
    queries.
    """
    return 2.0 * run.compute * shape.query


def tower_bytes(shape: Shape, run: Run) -> float:
    """Bytes that a block of the vision tower saves per patch for the backward pass."""
    width = _TOWER[shape.tower_norm][run.precision]
    return float(
        width * shape.tower_width + shape.tower_inner_kept * run.compute * shape.tower_inner + 4 * shape.tower_heads
    )


def activations(shape: Shape, prompts: Prompts, run: Run, *, shared: bool) -> float:
    """Bytes that autograd saves in one forward pass of the update, for the longest prompt and longest completions.

    Without sharing, every row is [prompt, completion]. With sharing, the packed row holds each prompt once, but
    attention saves keys and values of [prompt, completion] for every completion (`models.sharing.attention`). With
    gradient checkpointing, every layer saves only its input, and one layer at a time saves all its activations.
    """
    rows = run.rows
    length = prompts.longest + run.completion
    count = run.prompts_in(rows) if shared else rows
    tokens = count * prompts.longest + rows * run.completion if shared else rows * length
    keys = rows * length + (count * prompts.longest if shared else 0)
    patches = count * prompts.most_patches if shape.trains_tower else 0
    layer = tokens * text_bytes(shape, run) + keys * keys_bytes(shape, run)
    block = patches * tower_bytes(shape, run)
    if not run.checkpointing:
        return shape.layers * layer + shape.tower_blocks * block
    stream = 4 if run.weights == 4 else 2
    inputs = shape.layers * tokens * shape.hidden + shape.tower_blocks * patches * shape.tower_width
    return inputs * stream + layer + block


def components(shape: Shape, prompts: Prompts, run: Run, *, shared: bool) -> dict[str, float]:
    """Estimated bytes on each device, by part. `phases` sums the parts that are allocated at the same time.

    ZeRO-2 shards gradients and optimizer state. ZeRO-3 and FSDP2 also shard weights and gather one unit at a time
    (Rajbhandari et al., arXiv 1910.02054); the largest unit counts. During generation all weights are gathered.
    """
    n, parameters = run.launch.processes, shape.parameters
    weight, learned = run.weight, run.learned
    shards = n if run.launch.sharding in ("zero3", "fsdp2") else 1
    slices = n if run.launch.sharding != "none" else 1
    state = optimizer_bytes(run.optimizer, 4 if run.deepspeed else learned)
    master = 4.0 if run.deepspeed and weight == 2 else 0.0
    copied = parameters.total if run.compute < weight else 0
    copied += parameters.adapters if run.compute < learned else 0
    scored = run.rows * run.completion
    shared_columns = min(head_columns("cpu" if run.cpu else "cuda"), shape.vocabulary)
    columns = shared_columns if shared else _TILE_PLAIN
    tile = min(scored, _TILE_TOKENS) * columns * run.compute
    head = tile + 4.0 * scored * shape.hidden
    if shape.trains_head:
        head += 4.0 * shape.hidden * shape.vocabulary
    whole = weight if run.deepspeed else run.compute
    generated = run.rows * run.passes_per_generation if run.generates and not run.vllm else 0
    length = prompts.longest + run.completion + (_CACHE_ROOM if shared else 0)
    return {
        "weights": (parameters.total * weight + parameters.adapters * learned) / shards,
        "gathered": parameters.largest * run.compute if shards > 1 else 0.0,
        "gradients": parameters.trained * learned / slices,
        # DistributedDataParallel averages gradients in separate buckets.
        "buckets": parameters.trained * learned if n > 1 and slices == 1 else 0.0,
        "optimizer": parameters.trained * (state + master) / slices,
        "reference": parameters.total * weight / shards if run.reference and not run.adapters else 0.0,
        # Autocast caches a bf16 copy of every trained float32 weight, adapters included, until a forward pass or a
        # generation ends. FSDP2 gathers in bf16.
        "copies": copied * run.compute if shards == 1 else 0.0,
        "activations": activations(shape, prompts, run, shared=shared),
        "head": head,
        "generation weights": parameters.total * (whole if generated and shards > 1 else 0.0),
        "cache": generated * length * shape.layers * 2.0 * shape.keys * run.compute,
        # Model logits, their float32 copy, the processed scores and their softmax.
        "logits": generated * shape.vocabulary * (run.compute + 3 * 4.0),
        "runtime": RUNTIME_CPU if run.cpu else RUNTIME,
    }


def phases(sizes: dict[str, float], run: Run, device: float | None = None) -> dict[str, float]:
    """Bytes in use during `generation`, and at the peak of the `update`.

    Args:
        sizes: Result of `components`.
        run: Settings of the run.
        device: Memory of each device in bytes. A colocated vLLM reserves a share of it.
    """
    always = sum(sizes[name] for name in ("weights", "optimizer", "reference", "copies", "runtime"))
    vllm = run.vllm_share * (device or 0.0)
    update = sum(sizes[name] for name in ("gathered", "gradients", "buckets", "activations", "head"))
    gathered = sizes["generation weights"] or sizes["gathered"]
    return {
        "generation": always + gathered + sizes["cache"] + sizes["logits"] + vllm,
        "update": always + update + (0.0 if run.vllm_sleeps else vllm),
    }


def machine_memory() -> float:
    """Main memory of this machine in bytes."""
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
