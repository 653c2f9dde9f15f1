"""A model that was trained into a known fault, beside the scripted ones: one that answers by the texts alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks.cold_start import cold_start
from benchmarks.grounded import exchange, shuffled
from medvlm_r1.phantom.benchmark import write_benchmark
from medvlm_r1.phantom.scene import MODALITIES

QUESTIONS, EPOCHS = 900, 6.0


def text_only_model(
    out: Path, *, n: int = QUESTIONS, epochs: float = EPOCHS, progress: Callable[[int, int], None] | None = None
) -> Path:
    """The checkpoint of a model that ignores images; made if it is not there yet.

    The embedded base is tuned on PhantomVQA questions whose options give the answers away, each beside the image of
    another item: the texts are all there is to learn from.

    Args:
        out: Folder of its data and checkpoint.
        n: Training questions, divided evenly between the modalities.
        epochs: Passes over them.
        progress: Called with (images done, images in all), then with (steps done, steps in all).
    """
    drawn, mixed = out / "shortcut", out / "shortcut-shuffled"
    if not (drawn / "samples.jsonl").exists():
        each = n // len(MODALITIES)
        write_benchmark(drawn, split="train", n=each, modalities=MODALITIES, shortcut=True, progress=progress)
    exchange(drawn, mixed, shuffled, source="python -m benchmarks.audit; images exchanged")
    return cold_start(mixed, out / "model", seed=0, epochs=epochs, progress=progress)
