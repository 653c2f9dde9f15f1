"""`python -m benchmarks.predicted`: the speedup over TRL that operation counts predict for an A100; not measured.

The work of a GRPO step of Qwen2-VL-2B is counted for plain TRL and for the shared trainer, and divided by the rates
below. The two sides differ in how often prompts and images are computed, in the casts of weights during generation,
and in nothing else.
"""

from __future__ import annotations

import json

from benchmarks.command import run
from medvlm_r1.cli.options import Json

PEAK = 312e12
"""bfloat16 operations per second of an A100 (NVIDIA's data sheet)."""
BANDWIDTH = 2.0e12
"""Bytes per second of the 80 GB A100's memory (NVIDIA's data sheet)."""
EFFICIENCY = 0.4
"""Assumed share of the peak that forward and backward passes reach, on both sides."""
DECODE = {"HF generation": 0.025, "vLLM": 0.005}
"""Assumed seconds per generated token and batch: launch overhead in transformers, CUDA graphs in vLLM."""
LANGUAGE, TOWER = 1.54e9, 0.67e9
"""Weights of Qwen2-VL-2B: language model with its head, and vision tower."""
HIDDEN, LAYERS = 1536, 28
PATCHES = 4
"""Patches of the tower for each image token."""


IMAGE, TEXT = 256, 150
"""Image tokens of a prompt, and its other tokens."""
GROUP = PROMPTS = 8


def seconds(completion: int, engine: str, *, shared: bool) -> tuple[float, float]:
    """Seconds of generation and update of a GRPO step on one GPU.

    Args:
        completion: Mean completion length in tokens.
        engine: A key of `DECODE`.
        shared: Whether each prompt and image is computed once.
    """

    def forward(tokens: float, images: float, context: float) -> float:
        """Seconds of a forward pass; attention over `context` tokens on average."""
        operations = 2 * LANGUAGE * tokens + 4 * LAYERS * HIDDEN * context * tokens
        return (operations + 2 * TOWER * PATCHES * IMAGE * images) / (EFFICIENCY * PEAK)

    prompt, copies = IMAGE + TEXT, 1 if shared else GROUP
    tokens, context = copies * prompt + GROUP * completion, (prompt + completion) / 2
    # Forward and backward of the policy, and the reference, whose image features are cached when shared.
    update = 3 * forward(tokens, copies, context) + forward(tokens, 0 if shared else copies, context)
    # vLLM computes the prompt of a group once by its prefix cache, and so does the shared trainer.
    prefills = 1 if shared or engine == "vLLM" else copies
    decode = completion * DECODE[engine]
    if engine != "vLLM" and not shared:
        # Outside autocast, TRL's generation casts the float32 weights for every token: reads 4 bytes, writes 2.
        decode += completion * 6 * (LANGUAGE + TOWER) / BANDWIDTH
    return PROMPTS * forward(prefills * prompt, prefills, prompt / 2) + decode, PROMPTS * update


def predict(completions: tuple[int, ...] = (128, 256, 512)) -> list[dict[str, float | str]]:
    """Predicted seconds of generation, update and step of both sides, by engine and completion length."""
    rows: list[dict[str, float | str]] = []
    for engine in DECODE:
        for completion in completions:
            plain, ours = (seconds(completion, engine, shared=shared) for shared in (False, True))
            row: dict[str, float | str] = {"engine": engine, "completion": completion}
            row |= {"trl_generation": plain[0], "trl_update": plain[1], "generation": ours[0], "update": ours[1]}
            rows.append(row | {"ratio": sum(plain) / sum(ours)})
    return rows


def main(as_json: Json = False) -> None:
    """Print what operation counts predict for Qwen2-VL-2B on one A100, compared with TRL."""
    rows = predict()
    if as_json:
        print(json.dumps(rows))
        return
    print(
        "Computed from operation counts, not measured. Qwen2-VL-2B, full weights, one A100, 8 prompts of 406 tokens, "
        f"groups of 8, beta above 0; {EFFICIENCY:.0%} of the peak assumed in the update, {DECODE['HF generation']} s "
        f"(transformers) and {DECODE['vLLM']} s (vLLM) per generated token."
    )
    print(f"{'engine':<15}{'completion':>11}{'TRL s':>16}{'ours s':>16}{'ratio':>8}")
    for row in rows:
        plain = f"{row['trl_generation']:.1f} + {row['trl_update']:.1f}"
        ours = f"{row['generation']:.1f} + {row['update']:.1f}"
        print(f"{row['engine']:<15}{row['completion']:>11}{plain:>16}{ours:>16}{row['ratio']:>8.2f}")


if __name__ == "__main__":
    run(main, "predicted")
