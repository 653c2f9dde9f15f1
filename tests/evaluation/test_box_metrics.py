"""Metrics of boxes against a hand-computed case, and as `eval` writes them."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import poisson

from medvlm_r1.data.folder import read_folder, write_folder
from medvlm_r1.data.sample import Box, Sample
from medvlm_r1.evaluation.run import evaluate
from medvlm_r1.evaluation.score import box_rows, rate, report_lines, score_boxes
from medvlm_r1.evaluation.statistics import clustered_wilson
from medvlm_r1.models.generate import Generation
from medvlm_r1.models.shown import BoxLabel
from medvlm_r1.prompts.boxes import box_text
from scripted import OPTIONS, Scripted

SMALL, LARGE = (0.1, 0.1, 0.2, 0.2), (0.5, 0.5, 0.9, 0.9)
UPPER = (0.5, 0.5, 0.9, 0.66)  # 0.4 of LARGE, without its center
BAD = "<box>1,2</box>"


def sample(number: int, subject: str, sizes: tuple[str | None, ...] = ()) -> Sample:
    found = [{"name": "mass", "size": size} for size in sizes]
    fields: dict[str, Any] = {"images": ("a.png",), "question": "?", "options": OPTIONS, "answer": OPTIONS[0]}
    return Sample(**fields, id=str(number), modality="CT", subject=subject, truth={"images": [{"findings": found}]})


def generated(*boxes: tuple[float, ...], more: str = "") -> Generation:
    text = f"<think>x</think>{''.join(map(box_text, boxes))}{more}<answer>A</answer>"
    return Generation(text=text, n_tokens=1, truncated=False)


CASES = [
    (sample(0, "p0", ("tiny",)), generated(SMALL), (SMALL,)),
    (sample(1, "p0"), generated(UPPER), (LARGE,)),
    (sample(2, "p1"), generated(LARGE, more=BAD), (SMALL, LARGE)),
    (sample(3, "p2"), generated(SMALL, SMALL, LARGE), (SMALL,)),
    (sample(4, "p3"), generated(), ()),
    (sample(5, "p3"), generated(SMALL, more=BAD), ()),
    (sample(6, "p4"), generated(SMALL), None),
]


def test_figures_by_hand() -> None:
    samples, generations, boxes = zip(*CASES, strict=True)
    figures = score_boxes(samples, generations, [BoxLabel(boxes=b) for b in boxes])
    overlaps, clusters = [1, 0.4, 0, 1, 1], ["p0", "p0", "p1", "p1", "p2"]
    assert (figures["n"], figures["unknown"]) == (6, 1)
    assert figures["mean_iou"]["n"] == 5
    assert figures["mean_iou"]["mean"] == pytest.approx(3.4 / 5)
    assert figures["mean_iou"]["ci95"] == pytest.approx(clustered_wilson(overlaps, clusters))
    assert (figures["localized"]["count"], figures["center"]["count"]) == (3, 4)
    ends = clustered_wilson([1, 0, 0, 1, 1], clusters)
    assert figures["localized"]["ci95"] == pytest.approx([100 * end for end in ends])
    sizes = {name: (cell["count"], cell["n"]) for name, cell in figures["by_size"].items()}
    assert sizes == {"small": (1, 2), "large": (1, 2), "tiny": (1, 1)}
    assert [figures["false_boxes"][key] for key in ("n", "count", "per_image")] == [2, 2, 1]
    assert [figures["extra_boxes"][key] for key in ("n", "count", "per_image")] == [4, 2, 0.5]
    assert (figures["malformed"]["count"], figures["malformed"]["n"]) == (2, 6)
    json.dumps(figures, allow_nan=False)


@given(st.lists(st.integers(0, 5), min_size=2, max_size=30))
def test_the_interval_of_independent_counts_is_garwoods(counts: list[int]) -> None:
    figures = rate(counts, range(len(counts)))
    n, total = len(counts), sum(counts)
    low, high = figures["ci95"]
    assert low <= figures["per_image"] == total / n <= high
    mean, spread = total / n, sum((c - total / n) ** 2 for c in counts) / (n - 1)
    if spread <= mean:
        # The exact test would just reject both ends.
        assert poisson.cdf(total, n * high) == pytest.approx(0.025)
        assert not total or poisson.sf(total - 1, n * low) == pytest.approx(0.025)
    elif total:
        # Wider by the square root of the dispersion, for large counts.
        half = 1.96 * math.sqrt(spread / n)
        assert high - mean > 0.95 * half


def test_counts_of_one_subject_are_one_count() -> None:
    alone, apart = rate([1, 0, 2, 0], "aaaa"), rate([1, 0, 2, 0], "abcd")
    assert alone["ci95"][1] > apart["ci95"][1]
    assert rate([0, 0, 0, 0], "aabb")["ci95"] == rate([0, 0], "ab")["ci95"]
    assert rate([], [])["per_image"] is None


def test_eval_writes_and_prints_them(samples_dir: Path, tmp_path: Path) -> None:
    """Images of 12 x 10 pixels. Questions 0 and 1 have a box, 2 no finding; of the others, nothing is known."""
    box = Box(label="mass", image=0, x1=3, y1=2, x2=6, y2=4)
    known: dict[int, dict[str, Any]] = {0: {"boxes": (box,)}, 1: {"boxes": (box,)}, 2: {"truth": CASES[4][0].truth}}
    samples = [replace(sample, **known.get(i, {})) for i, sample in enumerate(read_folder(samples_dir))]
    write_folder(samples_dir, samples, info={})

    def reply(prompt: str) -> str:
        number = int(prompt.split("?")[0].split()[1])
        return f"<think>x</think>{'<box>250,200,500,400</box>' if number else ''}<answer>A</answer>"

    arguments: dict[str, Any] = {"generator": Scripted(reply), "template": "medvlm-r1-box"}
    results = evaluate("m", samples_dir, tmp_path / "run", **arguments)
    boxes = results["boxes"]
    assert (boxes["n"], boxes["unknown"], boxes["mean_iou"]["mean"], boxes["localized"]["percent"]) == (3, 3, 0.5, 50)
    assert (boxes["false_boxes"]["per_image"], results["well_formed"]["percent"]) == (1, 100)
    lines = " ".join(" ".join(report_lines(results)).split())
    for line in ("0.50 [0.05, 0.95], 2 findings", "false per finding-free image 1.00 [0.03, 5.57], 1 images"):
        assert line in lines
    plain = evaluate("m", samples_dir, tmp_path / "plain", generator=Scripted(reply))
    assert ("boxes" not in plain, box_rows(plain), plain["well_formed"]["percent"]) == (
        True,
        {},
        pytest.approx(100 / 6),
    )
