"""A `MedVLM` whose answers are written in the tests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator, Sequence
from itertools import repeat
from typing import Any

from PIL.Image import Image

from medvlm_r1.models.generate import Generation, GenerationInput, GenerationSettings
from medvlm_r1.serving.medvlm import MedVLM

Say = Callable[[Image, str], str]


class Scripted:
    """A backend.

    Args:
        say: From image and prompt to the completion. An empty completion is streamed as words without an end.
        shares: Probabilities of the letters after empty reasoning; None for a model that gives none.
        seconds: Pause between two words of a stream.
    """

    def __init__(self, say: Say, shares: Sequence[float] | None = None, seconds: float = 0.0) -> None:
        self._say, self._shares, self._seconds = say, shares, seconds
        self.prefills: list[str] = []
        self.closed = threading.Event()

    def generate(self, items: Sequence[GenerationInput], settings: GenerationSettings) -> list[Generation]:
        texts = [self._say(item.images[0], item.prompt[0]["content"][-1]["text"]) for item in items]
        return [Generation(text=text, n_tokens=len(text.split()), truncated=False) for text in texts]

    def stream(self, item: GenerationInput, settings: GenerationSettings) -> Generator[str, None, Generation]:
        [generation] = self.generate([item], settings)
        try:
            for word in generation.text.split(" ") if generation.text else repeat("word"):
                self.closed.wait(self._seconds)
                yield f"{word} "
        finally:
            self.closed.set()
        return generation

    def letters(
        self, items: Sequence[GenerationInput], prefills: Sequence[str], n_options: Sequence[int]
    ) -> list[tuple[float, ...]] | None:
        self.prefills += prefills
        return None if self._shares is None else [tuple(self._shares) for _ in items]

    def close(self) -> None:
        pass


def scripted(say: Say | str, **options: Any) -> MedVLM:
    """A model that says the same to every question, or what a function makes of image and prompt."""
    backend = Scripted((lambda image, prompt: say) if isinstance(say, str) else say, **options)
    return MedVLM(backend, name="scripted")  # type: ignore[arg-type]
