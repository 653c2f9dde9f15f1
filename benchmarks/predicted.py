"""`python -m benchmarks.predicted`: the speedup over TRL that operation counts predict for an A100; not measured.

The work of a GRPO step of Qwen2-VL-2B is counted for plain TRL and for the shared trainer, and divided by the rates
below. The two sides differ in how often prompts and images are computed, in the casts of weights during generation,
and in nothing else.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A GRPO step on one GPU."""

    image: int = 256
    """Image tokens of a prompt."""
    text: int = 150
    """Its other tokens."""
    group: int = 8
    prompts: int = 8
    completion: int
    """Mean completion length in tokens."""

    def _pass(self, tokens: float, images: float, context: float) -> float:
        """Operations of a forward pass; attention over `context` tokens on average."""
        attention = 4 * LAYERS * HIDDEN * context * tokens
        return 2 * LANGUAGE * tokens + attention + 2 * TOWER * PATCHES * self.image * images

    def seconds(self, *, shared: bool, engine: str) -> tuple[float, float]:
        """Seconds of generation and update.

        Args:
            shared: Whether each prompt and image is computed once.
            engine: A key of `DECODE`.
        """
        prompt, copies = self.image + self.text, 1 if shared else self.group
        tokens = copies * prompt + self.group * self.completion
        context = (prompt + self.completion) / 2
        forward = self._pass(tokens, copies, context)
        # Forward and backward of the policy, and the reference, whose image features are cached when shared.
        update = 3 * forward + self._pass(tokens, 0 if shared else copies, context)
        # vLLM computes the prompt of a group once by its prefix cache, and so does the shared trainer.
        prefills = 1 if shared or engine == "vLLM" else copies
        prefill = self._pass(prefills * prompt, prefills, prompt / 2)
        decode = self.completion * DECODE[engine]
        if engine != "vLLM" and not shared:
            # Outside autocast, TRL's generation casts the float32 weights for every token: reads 4 bytes, writes 2.
            decode += self.completion * 6 * (LANGUAGE + TOWER) / BANDWIDTH
        rate = EFFICIENCY * PEAK
        return self.prompts * prefill / rate + decode, self.prompts * update / rate


def predict(completions: tuple[int, ...] = (128, 256, 512)) -> list[dict[str, float | str]]:
    """Predicted seconds of generation, update and step of both sides, by engine and completion length."""
    rows: list[dict[str, float | str]] = []
    for engine in DECODE:
        for completion in completions:
            step = Step(completion=completion)
            plain, ours = (step.seconds(shared=shared, engine=engine) for shared in (False, True))
            rows.append(
                {
                    "engine": engine,
                    "completion": completion,
                    "trl_generation": plain[0],
                    "trl_update": plain[1],
                    "generation": ours[0],
                    "update": ours[1],
                    "ratio": sum(plain) / sum(ours),
                }
            )
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
