"""One GRPO step: four answers sampled from the embedded base, with rewards and advantages."""

from __future__ import annotations

import statistics

import numpy as np
from PIL import Image
from svg_parts import BLUE, GREEN, PALE, RED, arrow, box, drawing, picture, words

from medvlm_r1.models.generate import GenerationInput, GenerationSettings, LocalGenerator
from medvlm_r1.models.load import load_policy
from medvlm_r1.phantom.benchmark import to_sample
from medvlm_r1.phantom.questions import ask
from medvlm_r1.phantom.scene import render
from medvlm_r1.prompts.templates import messages
from medvlm_r1.rewards import resolve_reward

GROUP = 4
REWARDS = ("accuracy_paper", "format_paper")
_SEED = (9, 58)
_ROW = 66
_TOP = 64


def step_picture() -> str:
    """The drawing."""
    question = ask("MRI", _SEED, np.random.default_rng(_SEED))
    sample = to_sample(question, "train", 0)
    image = Image.fromarray(render(question.scene)).convert("RGB")
    texts = _sampled(GenerationInput(prompt=messages(sample), images=[image]))
    columns = {"letter": [sample.letter] * GROUP, "options": [sample.options] * GROUP}
    earned = [resolve_reward(name)(prompts=[""] * GROUP, completions=texts, **columns) for name in REWARDS]
    sums = [sum(one) for one in zip(*earned, strict=True)]
    mean, spread = statistics.mean(sums), statistics.stdev(sums)
    lettered = "\n".join(f"{letter}) {option}" for letter, option in zip("ABCD", sample.options, strict=False))
    bottom = _TOP + GROUP * _ROW
    parts = [
        words(16, 28, "1  Prompt", font_weight="bold", fill=BLUE),
        picture(16, 44, 150, image),
        words(16, 214, f"{sample.question}\n{lettered}\n(correct: {sample.letter})", wide=30),
        arrow(176, 180, 26),
        words(212, 28, f"2  {GROUP} answers, sampled", font_weight="bold", fill=BLUE),
        words(632, 28, "3  Rewards", font_weight="bold", fill=BLUE),
        words(632, 46, "letter", fill=PALE),
        words(682, 46, "format", fill=PALE),
        words(728, 46, "sum", fill=PALE),
        words(784, 28, "4  Advantages", font_weight="bold", fill=BLUE),
        words(784, 46, "relative to the group's mean", fill=PALE),
    ]
    for place, (text, total) in enumerate(zip(texts, sums, strict=True)):
        y = _TOP + place * _ROW
        advantage = (total - mean) / (spread + 1e-4)
        length = 40 * abs(advantage)
        colour = GREEN if advantage > 0 else RED
        parts += [
            box(212, y - 8, 404, _ROW - 8),
            words(220, y + 8, text, wide=66, most=3, font_size=11),
            *(words(640 + 48 * n, y + 24, f"{one[place]:g}") for n, one in enumerate(earned)),
            words(732, y + 24, f"{total:g}", font_weight="bold"),
            box(864 - (length if advantage < 0 else 0), y + 12, length, 16, fill=colour, edge=colour),
            words(864, y + 8, f"{advantage:+.2f}", font_size=11, text_anchor="middle"),
        ]
    told = (
        f"mean of the sums {mean:.2f}, standard deviation {spread:.2f}; "
        "advantage = (sum - mean) / (deviation + 0.0001)\n"
        "5  One update: tokens of answers with a positive advantage become more likely, the others less likely. "
        "A KL term keeps the policy near its starting point."
    )
    parts.append(words(212, bottom + 16, told, wide=112))
    return drawing(960, bottom + 62, "One step of GRPO on one question", parts)


def _sampled(asked: GenerationInput) -> list[str]:
    generator = LocalGenerator(policy=load_policy("phantom-base"), batch_size=GROUP)
    settings = GenerationSettings(max_new_tokens=64, temperature=1.0, seed=5)
    return [one.text for one in generator.generate([asked] * GROUP, settings)]
