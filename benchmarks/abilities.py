"""`python -m benchmarks.abilities MODEL`: measure what the embedded base can do, on new PhantomVQA questions.

Decoding is greedy. The abilities are: answering as in the demo, with the sound habit (first phrasing), with the
letter alone, with a box, without options, and about two images.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import typer
from PIL import Image

from benchmarks.base.language import Edges, PairQuestion, ask_pair, letter_of, prompt
from benchmarks.command import run
from medvlm_r1.cli.options import Json, print_result
from medvlm_r1.console import progress_bar
from medvlm_r1.models.generate import GenerationInput, GenerationSettings, LocalGenerator
from medvlm_r1.models.load import load_policy
from medvlm_r1.phantom.benchmark import SPLITS
from medvlm_r1.phantom.imaging import SIZE
from medvlm_r1.phantom.questions import Question, ask
from medvlm_r1.phantom.scene import MODALITIES, Scene, finding_box, render
from medvlm_r1.prompts.parser import answer_text, strict_letter

SEED = 2
"""Seed of the subjects. It differs from the seed of PhantomVQA's test set."""

_BOX = re.compile(r"<box>(\d+),(\d+),(\d+),(\d+)</box>")


@dataclass(frozen=True, slots=True)
class _Task:
    """A question, its images, and the scores of an answer: by name, a number or None if it does not apply."""

    question: Question | PairQuestion
    template: str
    scenes: tuple[Scene, ...]
    group: str
    scores: Callable[[str], dict[str, float | None]]

    def generation_input(self) -> GenerationInput:
        content: list[dict[str, Any]] = [{"type": "image"} for _ in self.scenes]
        content.append({"type": "text", "text": prompt(self.question, template=self.template)})
        images = [Image.fromarray(render(scene)).convert("RGB") for scene in self.scenes]
        return GenerationInput(prompt=[{"role": "user", "content": content}], images=images)


def measure_abilities(model: str, n: int = 150, progress: Callable[[int, int], None] | None = None) -> dict[str, Any]:
    """Measure the abilities of a base model.

    Args:
        model: Folder of the model, or "phantom-base".
        n: Number of questions per modality and ability.
        progress: Called with (number of answers so far, total number of answers).

    Returns:
        By ability, then by group (modality; for "reasoned" also attribute): the mean of each score in percent, and the
        number of questions `n`.
    """
    generator = LocalGenerator(policy=load_policy(model, dtype="float32", device="cpu"), batch_size=64)
    tasks = {name: make(n) for name, make in _ABILITIES.items()}
    total, done = sum(map(len, tasks.values())), 0
    results: dict[str, Any] = {}
    for name, group in tasks.items():
        scores: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
        for start in range(0, len(group), 64):
            chunk = group[start : start + 64]
            inputs = [task.generation_input() for task in chunk]
            for task, answer in zip(
                chunk, generator.generate(inputs, GenerationSettings(max_new_tokens=120)), strict=True
            ):
                for score, value in task.scores(answer.text).items():
                    if value is not None:
                        scores[task.group][score].append(value)
                        if name == "reasoned" and isinstance(task.question, Question):
                            scores[f"{task.group}, {task.question.attribute}"][score].append(value)
            done += len(chunk)
            if progress is not None:
                progress(done, total)
        results[name] = {
            key: {"n": max(map(len, columns.values())), **{s: 100 * float(np.mean(v)) for s, v in columns.items()}}
            for key, columns in sorted(scores.items())
        }
    return results


def iou(first: Edges, second: Edges) -> float:
    """Intersection over union of two boxes (x1, y1, x2, y2)."""
    width, height = (
        max(0.0, min(first[axis + 2], second[axis + 2]) - max(first[axis], second[axis])) for axis in (0, 1)
    )
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    union = sum(areas) - width * height
    return width * height / union if union > 0 else 0.0


def _questions(n: int) -> list[Question]:
    questions = []
    for number, modality in enumerate(MODALITIES):
        rng = np.random.default_rng((SPLITS["test"], SEED, number))
        questions += [ask(modality, (SPLITS["test"], SEED, number, index), rng) for index in range(n)]
    return questions


def _by_letter(template: str, phrasing: int | None = None) -> Callable[[int], list[_Task]]:
    def make(n: int) -> list[_Task]:
        tasks = []
        for question in _questions(n):
            chosen = question if phrasing is None else replace(question, phrasing=phrasing)

            def scores(text: str, letter: str = letter_of(question)) -> dict[str, float | None]:
                answer = text.strip() if template == "answer-only" else strict_letter(text)
                return {"correct": float(answer == letter)}

            tasks.append(_Task(chosen, template, (question.scene,), question.scene.modality, scores))
        return tasks

    return make


def _open(n: int) -> list[_Task]:
    tasks = []
    for question in _questions(n):

        def scores(text: str, answer: str = question.answer) -> dict[str, float | None]:
            return {"correct": float((answer_text(text) or "").strip() == answer)}

        chosen = replace(question, phrasing=0)
        tasks.append(_Task(chosen, "medvlm-r1-open", (question.scene,), question.scene.modality, scores))
    return tasks


def _boxes(n: int) -> list[_Task]:
    tasks = []
    for question in _questions(n):
        box = finding_box(question.scene)

        def scores(text: str, box: tuple[int, int, int, int] | None = box) -> dict[str, float | None]:
            boxes = [tuple(int(edge) / 1000 for edge in match) for match in _BOX.findall(text)]
            if box is None:
                return {"false box": float(bool(boxes))}
            x1, y1, x2, y2 = (edge / SIZE for edge in box)
            overlap = iou(boxes[0], (x1, y1, x2, y2)) if boxes else 0.0  # type: ignore[arg-type]
            return {"IoU": overlap, "IoU at least 0.5": float(overlap >= 0.5)}

        chosen = replace(question, phrasing=0)
        tasks.append(_Task(chosen, "medvlm-r1-box", (question.scene,), question.scene.modality, scores))
    return tasks


def _pairs(n: int) -> list[_Task]:
    rng = np.random.default_rng((SPLITS["test"], SEED, 9))
    scenes = [question.scene for question in _questions(n)]
    order = rng.permutation(len(scenes))
    tasks = []
    for first, second in zip(order[::2], order[1::2], strict=False):
        pair = ask_pair(scenes[first], scenes[second], rng)

        def scores(text: str, letter: str = letter_of(pair)) -> dict[str, float | None]:
            return {"correct": float(strict_letter(text) == letter)}

        tasks.append(_Task(pair, "medvlm-r1", pair.scenes, pair.attribute, scores))
    return tasks


_ABILITIES: dict[str, Callable[[int], list[_Task]]] = {
    "zero-shot": _by_letter("medvlm-r1"),
    "reasoned": _by_letter("medvlm-r1", phrasing=0),
    "letter alone": _by_letter("answer-only"),
    "no-think": _by_letter("no-think"),
    "box": _boxes,
    "open": _open,
    "two images": _pairs,
}


def main(
    model: Annotated[str, typer.Argument(help="Folder of the base, or phantom-base.")] = "phantom-base",
    n: Annotated[int, typer.Option(min=1, help="Questions per modality and ability.")] = 150,
    as_json: Json = False,
) -> None:
    """Measure the abilities of the embedded base model on PhantomVQA questions.

    Example: python -m benchmarks.abilities runs/phantom-base
    """
    with progress_bar("Abilities") as advance:
        results = measure_abilities(model, n, advance)
    lines = [
        f"{ability}, {group}: "
        + ", ".join(f"{name} {value:.1f}" for name, value in scores.items() if name != "n")
        + f" (n = {scores['n']})"
        for ability, groups in results.items()
        for group, scores in groups.items()
    ]
    print_result(results, lines, as_json=as_json)


if __name__ == "__main__":
    run(main, "abilities")
