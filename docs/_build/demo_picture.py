"""Draw the README's picture from a finished demo: `python docs/_build/demo_picture.py runs/demo` (seed 0).

Left: the table of `results.json`. Right: the first CT question about a finding in `eval/grpo`, correct or wrong.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image
from svg_parts import BLUE, GREEN, INK, LINE, PALE, RED, box, drawing, picture, words

from medvlm_r1.demo import DOMAINS, STAGES
from medvlm_r1.errors import RESEARCH_USE
from medvlm_r1.prompts.parser import parse_response

TARGET = Path(__file__).parents[1] / "assets" / "demo.svg"
WIDTH, HEIGHT, LEFT, RIGHT = 960, 330, 24, 520
_COLUMNS = dict(zip((*DOMAINS, "mean"), (150, 246, 342, 434), strict=True))
_ROW = 62


def demo_picture(demo: Path) -> str:
    """Return the drawing as SVG.

    Args:
        demo: Folder of a finished demo.

    Raises:
        StopIteration: The demo's test set has no CT question about a finding.
    """
    results = json.loads((demo / "results.json").read_text(encoding="utf-8"))
    lines = (demo / "eval" / "grpo" / "answers.jsonl").read_text(encoding="utf-8").splitlines()
    item = next(
        one for one in map(json.loads, lines) if (one["modality"], one["question_type"]) == ("CT", "Disease Diagnosis")
    )
    image = Image.open(demo / "data" / "test" / item["images"][0]).convert("L")
    notice = words(LEFT, HEIGHT - 14, f"{RESEARCH_USE} PhantomVQA: computed images, no patients.", fill=PALE)
    parts = [*_table(results), *_answer(item, image), notice]
    return drawing(WIDTH, HEIGHT, "The demo: accuracies, and one answer with its reasoning", parts)


def _table(results: Mapping[str, Any]) -> list[str]:
    n = results["zero_shot"]["accuracy"]["MRI"]["n"]
    parts = [words(LEFT, 36, f"PhantomVQA, {n} questions each: accuracy in %", font_weight="bold", font_size=14)]
    for name, x in _COLUMNS.items():
        under = {"MRI": "trained on", "mean": ""}.get(name, "never trained on")
        parts += [
            words(x, 68, name, font_weight="bold", text_anchor="middle"),
            words(x, 68 + LINE, under, fill=PALE, font_size=10, text_anchor="middle"),
        ]
    for number, (stage, name) in enumerate(STAGES.items()):
        top = 94 + number * _ROW
        trained = stage == "grpo"
        parts.append(box(LEFT - 8, top, 468, _ROW - 8, fill="#e8eaf6" if trained else "#f5f6fa"))
        parts.append(words(LEFT + 4, top + 32, name, font_weight="bold" if trained else "normal", font_size=13))
        accuracy = results[stage]["accuracy"]
        for column, x in _COLUMNS.items():
            cell = accuracy[column]
            value = cell if column == "mean" else cell["percent"]
            style: dict[str, object] = {"font_size": 17, "fill": BLUE if trained else INK, "text_anchor": "middle"}
            parts.append(words(x, top + (33 if column == "mean" else 26), f"{value:.1f}", **style))
            if column != "mean":
                low, high = cell["ci95"]
                ends = f"{low:.1f} to {high:.1f}"
                parts.append(words(x, top + 43, ends, fill=PALE, font_size=10, text_anchor="middle"))
    return parts


def _answer(item: Mapping[str, Any], image: Image.Image) -> list[str]:
    found = parse_response(item["text"], item["options"])
    right = bool(item["correct"])
    options = "\n".join(f"{letter}) {text}" for letter, text in zip("ABCDEFGHIJ", item["options"], strict=False))
    x = RIGHT + 190
    return [
        words(RIGHT, 36, "One answer after GRPO", font_weight="bold", font_size=14),
        picture(RIGHT, 54, 172, image),
        words(x, 66, f"{item['question']}\n{options}", wide=36, most=7),
        words(RIGHT, 250, "reasoning", fill=PALE, font_size=10),
        words(RIGHT, 250 + LINE, found.reasoning or item["text"], wide=66, most=3),
        words(x, 190, "answer", fill=PALE, font_size=10),
        words(
            x,
            212,
            f"{item['letter']}, {'correct' if right else 'wrong'}",
            font_size=17,
            font_weight="bold",
            fill=GREEN if right else RED,
        ),
    ]


if __name__ == "__main__":
    TARGET.write_text(demo_picture(Path(sys.argv[1])), encoding="utf-8")
