"""Draw the questions of PhantomVQA, and write them as a data folder with images."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from medvlm_r1.data.folder import refuse_other, write_folder
from medvlm_r1.data.option_prior import TOLERANCE, imbalance, option_prior, rerandomize
from medvlm_r1.data.sample import Box, Sample
from medvlm_r1.data.workers import work_on_images
from medvlm_r1.errors import UsageError
from medvlm_r1.phantom.questions import Question, ask, describe
from medvlm_r1.phantom.scene import MODALITIES, Scene, finding_box, render

# First number of each subject's seed. It prevents the same subject in two splits.
SPLITS = {"train": 1, "test": 2, "pretrain": 3}
DEFAULT_N = {"train": 600, "test": 300}
DEFAULT_MODALITIES = {"train": ("MRI",), "test": MODALITIES}

TRAIN_MODALITY = "MRI"
PUBLISHED = {"MRI": (0.972, 0.0), "CT": (0.972, 0.165), "X-ray": (0.900, -0.017)}
"""The option prior on the 900 published questions: its accuracy with leave-one-out, and its accuracy minus chance when
it is fitted on the MRI questions (`medvlm-r1 audit data`)."""
NAME = "PhantomVQA"
_GIVEAWAY_TOLERANCE = 0.015


def draw_questions(split: str, modality: str, n: int, seed: int, *, giveaway: bool = False) -> tuple[Question, ...]:
    """Draw the questions of one modality in one split, with their scenes. No image is rendered.

    The draw is repeated (re-randomization) until the accuracies of the text-only baselines are within the limits below.
    After 400 draws without success, the best draw is used. The same arguments give the same questions.

    Without `giveaway`, every baseline is within about 2 percentage points of chance. The baselines are the majority
    letter, the longest option and the option prior with leave-one-out. For the test split, the option prior is also
    fitted on the training split and on the MRI questions of the test split.

    With `giveaway`, the option prior is within 1.5 percentage points of its accuracy on the published questions
    (`PUBLISHED`), and the majority letter within 4.5 points of chance.
    """
    return _draw(split, modality, n, seed, giveaway)


# Cached, because every modality needs the training split and the MRI questions of the test split.
@lru_cache(maxsize=16)
def _draw(split: str, modality: str, n: int, seed: int, giveaway: bool) -> tuple[Question, ...]:
    code, number = SPLITS[split], MODALITIES.index(modality)
    fits = []
    if split == "test" and not (giveaway and modality == TRAIN_MODALITY):
        fits.append(_draw("train", TRAIN_MODALITY, DEFAULT_N["train"], seed, giveaway))
        if modality != TRAIN_MODALITY:
            fits.append(_draw("test", TRAIN_MODALITY, n, seed, giveaway))

    def draw(attempt: int) -> tuple[Question, ...]:
        rng = np.random.default_rng((code, seed, number, n, attempt))
        return tuple(ask(modality, (code, seed, number, i), rng, giveaway=giveaway) for i in range(n))

    def deviation(questions: Sequence[Question]) -> float:
        return giveaway_deviation(modality, questions, fits) if giveaway else imbalance(questions, fits)

    return rerandomize(draw, deviation, _GIVEAWAY_TOLERANCE if giveaway else TOLERANCE)


def giveaway_deviation(modality: str, questions: Sequence[Question], fits: Sequence[Sequence[Question]]) -> float:
    """Deviation of the text-only baselines on `questions` from those on the published questions, as a fraction.

    The result is the largest of several differences. They are those of the option prior, with leave-one-out and fitted
    on each of `fits`, and a third of the difference between the majority letter's accuracy and chance.

    Args:
        modality: Modality of the questions.
        questions: Questions to answer without their images.
        fits: MRI questions. The option prior is fitted on each of them and applied to `questions`.
    """
    chance = np.mean([1 / len(q.options) for q in questions])
    letters = np.bincount([q.options.index(q.answer) for q in questions])
    own, gain = PUBLISHED[modality]
    distances = [np.mean(option_prior(questions, questions, leave_one_out=True)) - own]
    distances += [np.mean(option_prior(fit, questions)) - chance - gain for fit in fits]
    distances.append((letters.max() / len(questions) - chance) / 3)
    return max(abs(float(distance)) for distance in distances)


def to_sample(question: Question, split: str, index: int, *, giveaway: bool = False) -> Sample:
    """Convert a question to a `Sample`, without its boxes. The name of its image reveals nothing about the answer."""
    scene = question.scene
    name = f"phantom-{'giveaway-' if giveaway else ''}{split}-{scene.seed[1]}-{scene.modality.lower()}-{index:05d}"
    return Sample(
        id=name,
        images=(f"images/{name}.png",),
        question=question.text,
        options=question.options,
        answer=question.answer,
        modality=scene.modality,
        question_type=question.type,
        subject=name,
        split=split,
        truth={"asks": question.attribute, "images": [scene.truth()]},
        record={"phrasing": question.phrasing, "description": describe(scene), "seed": list(scene.seed)},
    )


def write_benchmark(
    out: Path,
    *,
    split: str = "test",
    modalities: Sequence[str] = (),
    n: int | None = None,
    seed: int = 0,
    giveaway: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[Sample]:
    """Write PhantomVQA as a data folder.

    Args:
        out: Folder to write. It must not contain another data set.
        split: "train" or "test".
        modalities: Names from `MODALITIES`. Default: MRI for "train", all three for "test".
        n: Questions per modality. Default: 600 for "train" and 300 for "test", as in the paper.
        seed: Seed of all subjects and questions. The same arguments give the same bytes.
        giveaway: Draw questions whose options reveal the answer as often as in the published test sets (see
            `phantom.questions`).
        progress: Called with (number of images written, total number of images).

    Raises:
        UsageError: The split or a modality is unknown, or `n` is below 1.
        UserError: The folder contains another data set, the disk cannot be written, or a worker process was killed.
    """
    if split not in DEFAULT_N:
        raise UsageError(f"Unknown split {split!r}; wanted train or test.")
    chosen = tuple(modalities) or DEFAULT_MODALITIES[split]
    for modality in chosen:
        if modality not in MODALITIES:
            raise UsageError(f"Unknown modality {modality!r}; PhantomVQA has {', '.join(MODALITIES)}.")
    count = DEFAULT_N[split] if n is None else n
    if count < 1:
        raise UsageError(f"--n is {count}; wanted at least 1 question per modality.")
    refuse_other(out, NAME)
    drawn, jobs = [], []
    (out / "images").mkdir(parents=True, exist_ok=True)
    for modality in chosen:
        for index, question in enumerate(draw_questions(split, modality, count, seed, giveaway=giveaway)):
            sample = to_sample(question, split, index, giveaway=giveaway)
            drawn.append(sample)
            jobs.append((question.scene, out / sample.images[0]))
    samples: list[Sample] = []

    def add(boxes: tuple[Box, ...]) -> None:
        samples.append(dataclasses.replace(drawn[len(samples)], boxes=boxes))
        if progress is not None:
            progress(len(samples), len(jobs))

    work_on_images(_write_image, jobs, add)
    info = {
        "name": NAME,
        "source": "made by medvlm-r1 data import phantom",
        "license": "Apache-2.0",
        "split": split,
        "seed": seed,
        **({"giveaway": True} if giveaway else {}),
        "counts": dict.fromkeys(chosen, count),
    }
    write_folder(out, samples, info=info)
    return samples


def _write_image(job: tuple[Scene, Path]) -> tuple[Box, ...]:
    scene, path = job
    Image.fromarray(render(scene)).save(path, compress_level=3)
    box = finding_box(scene)
    if box is None:
        return ()
    x1, y1, x2, y2 = box
    return (Box(label=scene.finding, image=0, x1=x1, y1=y1, x2=x2, y2=y2),)
