"""`python -m benchmarks.pointing`: validate the probe `pointing` on models whose pointing is known.

Every model answers the same PhantomVQA items. The expected verdicts of all parts of the probe are known (`KNOWN`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image, ImageOps

from benchmarks.audit import probe_inputs
from benchmarks.command import run as run_command
from benchmarks.known_models import DIM, SAME_PIXELS, Oracle, imagined, number_of, sure
from medvlm_r1.audit.collect import Answers, audited, collect_responses, even_parts
from medvlm_r1.audit.probe import ProbeInput
from medvlm_r1.audit.probes.pointing import PointingProbe, mirrored
from medvlm_r1.audit.runner import judged
from medvlm_r1.audit.variant import ANSWER_TAG, Variant, VariantAnswer, parsed_answer
from medvlm_r1.cli.options import Json, print_result
from medvlm_r1.data.sample import Box, Sample
from medvlm_r1.errors import RESEARCH_USE
from medvlm_r1.models.shown import true_boxes
from medvlm_r1.phantom.benchmark import DEFAULT_N, draw_questions, to_sample
from medvlm_r1.phantom.questions import NO_FINDING, describe
from medvlm_r1.phantom.scene import MODALITIES, Scene, finding_box, render
from medvlm_r1.prompts.assistant_response import split_sentences
from medvlm_r1.prompts.boxes import Edges, box_text

TEMPLATE = "medvlm-r1-box"
CENTER: Edges = (0.4, 0.4, 0.6, 0.6)
_BATCH = 30
"""Items per batch: the images of their variants are in memory together."""


@dataclass(frozen=True, slots=True)
class Sight:
    """The recognized scene and the box of its finding; None for an unknown image, or without a finding."""

    scene: Scene | None = None
    box: Edges | None = None


class PointingEyes:
    """Recognizes the images of a data set, also if mirrored or partly hidden. A hidden finding is not seen.

    Args:
        samples: Items of PhantomVQA with their boxes.
        scenes: Their scenes.
        images: Their images, one each.
        dim: Share of the images that are not recognized, selected by the samples' ids.
    """

    def __init__(
        self, samples: Sequence[Sample], scenes: Sequence[Scene], images: Sequence[Image.Image], dim: float = DIM
    ) -> None:
        self._known: list[tuple[NDArray[np.uint8], Sight]] = []
        for sample, scene, image in zip(samples, scenes, images, strict=True):
            boxes = [edges for _, edges in true_boxes(sample, image.size) or ()]
            other = {"left": "right", "right": "left"}.get(scene.side or "")
            turned = replace(scene, side=other) if other and scene.side_is_seen else scene
            hidden = number_of(f"dim|{sample.id}") < dim * 2**48
            for picture, scene_seen, places in (
                (image, scene, boxes),
                (ImageOps.mirror(image), turned, mirrored(boxes)),
            ):
                sight = Sight() if hidden else Sight(scene_seen, places[0] if places else None)
                self._known.append((np.asarray(picture.convert("L")), sight))
        self._small = np.stack([pixels[::4, ::4] for pixels, _ in self._known])

    def see(self, images: Sequence[Image.Image]) -> Sight:
        """Recognize the first image. Without an image, nothing is recognized."""
        if not images:
            return Sight()
        pixels = np.asarray(images[0].convert("L"))
        same = (self._small == pixels[::4, ::4]).mean(axis=(1, 2))
        known, sight = self._known[int(same.argmax())]
        if same.max() < SAME_PIXELS or sight.scene is None:
            return Sight()
        if sight.box is None:
            return sight
        height, width = pixels.shape
        x1, y1, x2, y2 = (round(edge * (height if axis % 2 else width)) for axis, edge in enumerate(sight.box))
        if (known == pixels)[y1:y2, x1:x2].mean() < SAME_PIXELS:
            return Sight(imagined(sight.scene, "finding", NO_FINDING))
        return sight


class Pointer(Oracle):
    """Describes what it sees, concludes from its own text, and points at the finding that it sees.

    Attributes:
        eyes: `PointingEyes`.
    """

    __slots__ = ()

    def box(self, variant: Variant) -> Edges | None:
        """The box that the model states."""
        sight: Any = self.eyes.see(variant.images)
        return sight.box  # type: ignore[no-any-return]

    def _answer(self, variant: Variant) -> VariantAnswer:
        # Not super(): slots make a new class.
        answer = Oracle._answer(self, variant)
        box = None if variant.letter_only or not variant.images else self.box(variant)
        if box is None:
            return answer
        before, tag, after = answer.text.rpartition(ANSWER_TAG)
        return parsed_answer(variant, f"{before}{box_text(box)}{tag}{after}", n_tokens=answer.n_tokens, truncated=False)


class PointsAtRandom(Pointer):
    """Answers by the image, and points at a place that depends on the image, but not on the finding."""

    __slots__ = ()

    def box(self, variant: Variant) -> Edges:
        """A box of a fifth of the width and height."""
        rng = np.random.default_rng(number_of(variant.images[0].tobytes().hex()[::997]))
        x, y = (float(place) for place in rng.uniform(0, 0.8, 2))
        return x, y, x + 0.2, y + 0.2


class PointsAtCenter(Pointer):
    """Answers by the image, and always points at the center."""

    __slots__ = ()

    def box(self, variant: Variant) -> Edges:
        """A box at the center of the image."""
        return CENTER


class AnswersFromText(Pointer):
    """Describes what it sees and points at it, but answers by the option texts alone."""

    __slots__ = ()

    def plan(self, variant: Variant, begun: str) -> list[str]:
        """The description, without a conclusion."""
        scene = self.belief(variant)
        return Pointer.plan(self, variant, begun) if scene is None else split_sentences(describe(scene))

    def probabilities(self, variant: Variant, reasoning: str) -> tuple[float, ...]:
        """Nearly 1 for one of the offered texts, whatever the image shows."""
        options = variant.sample.options
        return sure(len(options), options.index(min(options, key=number_of)))


@dataclass(frozen=True, slots=True)
class Known:
    """A scripted model: its class, its behavior, and its expected verdict on each part of the probe."""

    kind: type[Pointer]
    about: str
    points: str
    evidence: str
    held: str
    moved: str


KNOWN: dict[str, Known] = {
    "p1": Known(PointsAtRandom, "points at random", "fail", "fail", "fail", "fail"),
    # A box on the midline does not move.
    "p2": Known(PointsAtCenter, "always points at the center", "fail", "fail", "fail", "not run"),
    "p3": Known(AnswersFromText, "points at the finding, answers from the text", "fail", "fail", "pass", "pass"),
    "p4": Known(Pointer, "points at what it answers from", "pass", "pass", "pass", "pass"),
}


def bench_pointing(
    *, items: int = 300, seeds: int = 5, progress: Callable[[int, int, str], None] = lambda *_: None
) -> dict[str, Any]:
    """Run the probe `pointing` on all known models.

    Args:
        items: Questions per seed, divided evenly between the modalities.
        seeds: Number of question sets.
        progress: Called with (items done, all items, model and seed).

    Returns:
        `items`, `seeds`, `models.<name>` with `about`, `expected`, `verdicts` and `measures` (one per seed), and
        `wrong`: the unexpected verdicts, in words.
    """
    probes = {"pointing": PointingProbe()}
    models: dict[str, Any] = {
        name: {
            "about": known.about,
            "expected": {key: getattr(known, key) for key in ("points", "evidence", "held", "moved")},
            "verdicts": [],
            "measures": [],
        }
        for name, known in KNOWN.items()
    }
    done, total = 0, seeds * len(KNOWN) * items
    for seed in range(seeds):
        inputs, eyes = pointing_items(items, seed)
        for name, known in KNOWN.items():
            answers: dict[str, Answers] = {}
            for rows in even_parts(len(inputs), _BATCH):
                progress(done, total, f"model {name}, seed {seed}")
                backend = known.kind(eyes)  # type: ignore[arg-type]
                answers |= collect_responses([inputs[row] for row in rows], probes.values(), backend)
                done += len(rows)
            result = judged(audited([item.sample for item in inputs], answers), probes)["probes"]["pointing"]
            parts = result["detail"].get("parts", {})
            models[name]["verdicts"].append({"points": result["verdict"], **parts})
            models[name]["measures"].append(result["measures"])
    progress(total, total, "")
    return {"items": items, "seeds": seeds, "models": models, "wrong": unexpected(models)}


def pointing_items(items: int, seed: int) -> tuple[list[ProbeInput], PointingEyes]:
    """Return PhantomVQA's first test questions with boxes as probe inputs, and `PointingEyes` for them."""
    samples, scenes, images = [], [], []
    for index, modality in enumerate(MODALITIES):
        n = (items + len(MODALITIES) - 1 - index) // len(MODALITIES)
        for number, question in enumerate(draw_questions("test", modality, max(n, DEFAULT_N["test"]), seed)[:n]):
            place = finding_box(question.scene)
            edges = dict(zip(("x1", "y1", "x2", "y2"), place or (), strict=False))
            boxes = (Box(label=question.scene.finding, image=0, **edges),) if place else ()
            samples.append(replace(to_sample(question, "test", number), boxes=boxes))
            scenes.append(question.scene)
            images.append(Image.fromarray(render(question.scene)).convert("RGB"))
    return probe_inputs(samples, images, TEMPLATE), PointingEyes(samples, scenes, images)


def unexpected(models: Mapping[str, Any]) -> list[str]:
    """Unexpected verdicts, in words."""
    return [
        f"model {name}, seed {seed}: {part} is {verdicts.get(part)!r}, wanted {wanted!r}"
        for name, model in models.items()
        for seed, verdicts in enumerate(model["verdicts"])
        for part, wanted in model["expected"].items()
        if verdicts.get(part) != wanted
    ]


def pointing_lines(results: Mapping[str, Any]) -> list[str]:
    """Format the verdicts and figures of all parts, for each model and seed."""
    lines = [f"{results['items']} PhantomVQA questions per seed, {results['seeds']} seeds"]
    for name, model in results["models"].items():
        lines.append(f"{name}  {model['about']}; expected: {model['expected']}")
        for verdicts, measures in zip(model["verdicts"], model["measures"], strict=True):
            figures = (f"{key} {measure['value']:.2f} (n {measure['n']})" for key, measure in measures.items())
            lines += [f"    {verdicts}", f"      {', '.join(figures)}"]
    return [*lines, *results["wrong"], "NOT as expected" if results["wrong"] else "all as expected"]


def main(
    items: Annotated[int, typer.Option(min=3, help="PhantomVQA questions per seed.")] = 300,
    seeds: Annotated[int, typer.Option(min=1, help="Number of question sets.")] = 5,
    as_json: Json = False,
) -> None:
    """Validate the probe `pointing`: do its verdicts separate models that point in different ways?

    Example: python -m benchmarks.pointing --items 150 --seeds 1
    """
    from medvlm_r1.console import progress_bar

    with progress_bar("Items") as advance:
        results = bench_pointing(items=items, seeds=seeds, progress=advance)
    print_result(results, [*pointing_lines(results), RESEARCH_USE], as_json=as_json)


if __name__ == "__main__":
    run_command(main, "pointing")
