"""PhantomVQA as a data folder: its questions, subjects and files."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from medvlm_r1.data.folder import refuse_other, write_folder
from medvlm_r1.data.option_prior import longest_option, option_prior
from medvlm_r1.data.sample import Sample
from medvlm_r1.data.workers import work_on_images
from medvlm_r1.errors import UsageError
from medvlm_r1.phantom.questions import Question, ask, describe
from medvlm_r1.phantom.scene import MODALITIES, Scene, render

# The first number of every subject's seed: subjects of different splits can never be the same.
SPLITS = {"train": 1, "test": 2, "pretrain": 3}
DEFAULT_N = {"train": 600, "test": 300}
DEFAULT_MODALITIES = {"train": ("MRI",), "test": MODALITIES}

TRAIN_MODALITY = "MRI"
NAME = "PhantomVQA"
_TOLERANCE = 0.018
_MOST_DRAWS = 400


def draw_questions(split: str, modality: str, n: int, seed: int, *, shortcut: bool = False) -> tuple[Question, ...]:
    """Draws the questions of one modality in one split, subjects included; no image is made.

    The whole draw is repeated (a re-randomized design) until the option prior (leave one out, and fitted on the
    training split and on the same split's MRI), the majority letter and the longest option are all within about 2
    points of chance, so that text alone gives nothing away, not even by chance. With `shortcut`, text alone is meant to
    give the answers away, and the first draw is used. The same arguments give the same questions.
    """
    return _draw(split, modality, n, seed, shortcut)


# The training split and the test split's MRI are fitted on again for each modality.
@lru_cache(maxsize=16)
def _draw(split: str, modality: str, n: int, seed: int, shortcut: bool) -> tuple[Question, ...]:
    code, number = SPLITS[split], MODALITIES.index(modality)
    fits = []
    if split == "test" and not shortcut:
        fits.append(_draw("train", TRAIN_MODALITY, DEFAULT_N["train"], seed, False))
        if modality != TRAIN_MODALITY:
            fits.append(_draw("test", TRAIN_MODALITY, n, seed, False))
    least, best = math.inf, tuple[Question, ...]()
    for attempt in range(1 if shortcut else _MOST_DRAWS):
        rng = np.random.default_rng((code, seed, number, n, attempt))
        questions = tuple(ask(modality, (code, seed, number, i), rng, shortcut=shortcut) for i in range(n))
        worst = imbalance(questions, fits)
        if worst < least:
            least, best = worst, questions
        if worst <= _TOLERANCE:
            break
    return best


def imbalance(questions: Sequence[Question], fits: Sequence[Sequence[Question]]) -> float:
    """Largest distance from chance of a text-only baseline; the option prior is also fitted on each of `fits`."""
    chance = np.mean([1 / len(q.options) for q in questions])
    letters = np.bincount([q.options.index(q.answer) for q in questions])
    credits = [option_prior(fit, questions) for fit in fits]
    credits += [option_prior(questions, questions, leave_one_out=True), longest_option(questions)]
    shares = [letters.max() / len(questions), *map(np.mean, credits)]
    return max(abs(float(share - chance)) for share in shares)


def to_sample(question: Question, split: str, index: int, *, shortcut: bool = False) -> Sample:
    """Convert a question into a `Sample`; the image name reveals nothing about the answer."""
    scene = question.scene
    name = f"phantom-{'shortcut-' if shortcut else ''}{split}-{scene.seed[1]}-{scene.modality.lower()}-{index:05d}"
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
        record={
            "attribute": question.attribute,
            "phrasing": question.phrasing,
            "truth": describe(scene),
            "scene": dataclasses.asdict(scene),
        },
    )


def write_benchmark(
    out: Path,
    *,
    split: str = "test",
    modalities: Sequence[str] = (),
    n: int | None = None,
    seed: int = 0,
    shortcut: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[Sample]:
    """Writes PhantomVQA as a data folder.

    Args:
        out: Folder to write; must not hold another data set.
        split: "train" or "test".
        modalities: Any of `MODALITIES`; by default MRI to train, all three to test.
        n: Questions per modality; by default the paper's 600 to train, 300 to test.
        seed: Changes every subject and question. The same arguments give the same bytes.
        shortcut: Let the options give the answers away, to test audits on (see `phantom.questions`).
        progress: Called with (images done, images in all).

    Raises:
        UsageError: An unknown split or modality, or n below 1.
        UserError: The disk refuses, or a process that makes images was killed from outside.
        UserError: The folder holds another data set.
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
    samples, jobs = [], []
    (out / "images").mkdir(parents=True, exist_ok=True)
    for modality in chosen:
        for index, question in enumerate(draw_questions(split, modality, count, seed, shortcut=shortcut)):
            sample = to_sample(question, split, index, shortcut=shortcut)
            samples.append(sample)
            jobs.append((question.scene, out / sample.images[0]))
    done = itertools.count(1)

    def written(_: None) -> None:
        if progress is not None:
            progress(next(done), len(jobs))

    work_on_images(_write_image, jobs, written)
    info = {
        "name": NAME,
        "source": "made by medvlm-r1 data import phantom",
        "license": "Apache-2.0",
        "split": split,
        "seed": seed,
        **({"shortcut": True} if shortcut else {}),
        "counts": dict.fromkeys(chosen, count),
    }
    write_folder(out, samples, info=info)
    return samples


def _write_image(job: tuple[Scene, Path]) -> None:
    scene, path = job
    Image.fromarray(render(scene)).save(path, compress_level=3)
