"""A `MedVLM` whose answers are written in the tests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from PIL.Image import Image

from medvlm_r1.models.generate import Generation, GenerationInput, GenerationSettings
from medvlm_r1.serving.medvlm import MedVLM

Say = Callable[[Image, str], str]


class Pieces(Iterator[str]):
    """The words of a text, each after so many seconds."""

    def __init__(self, text: str, seconds: float = 0.0) -> None:
        self._text = text
        self._seconds, self._closed = seconds, threading.Event()
        self._words = iter([f"{word} " for word in text.split(" ")])
        self.generation: Generation | None = None

    def __next__(self) -> str:
        self._closed.wait(self._seconds)
        try:
            return next(self._words)
        except StopIteration:
            self.generation = _generation(self._text)
            raise

    def close(self) -> None:
        self._closed.set()


class EndlessPieces(Iterator[str]):
    """Words without an end, until it is closed."""

    generation: Generation | None = None

    def __init__(self) -> None:
        self.closed = threading.Event()

    def __next__(self) -> str:
        # A pace that a page can follow; closing ends the wait.
        if self.closed.wait(0.02):
            raise StopIteration
        return "word "

    def close(self) -> None:
        self.closed.set()


class Scripted:
    """A backend.

    Args:
        say: From picture and prompt to the completion.
        weigh: Probabilities of the letters after an empty reasoning; None for a model that tells none.
        endless: Given instead of words where a question is read along.
        seconds: Between two words where it is read along.
    """

    def __init__(
        self,
        say: Say,
        weigh: Sequence[float] | None = None,
        endless: EndlessPieces | None = None,
        seconds: float = 0.0,
    ) -> None:
        self._say, self._weigh, self._endless, self._seconds = say, weigh, endless, seconds
        self.turns: list[str] = []

    def generate(self, items: Sequence[GenerationInput], settings: GenerationSettings) -> list[Generation]:
        return [_generation(self._text(item)) for item in items]

    def stream(self, item: GenerationInput, settings: GenerationSettings) -> Iterator[str]:
        return self._endless or Pieces(self._text(item), self._seconds)

    def letters(
        self, items: Sequence[GenerationInput], turns: Sequence[str], n_options: Sequence[int]
    ) -> list[tuple[float, ...]] | None:
        self.turns += turns
        return None if self._weigh is None else [tuple(self._weigh) for _ in items]

    def close(self) -> None:
        pass

    def _text(self, item: GenerationInput) -> str:
        [message] = item.prompt
        return self._say(item.images[0], message["content"][-1]["text"])


def scripted(say: Say, **options: Any) -> MedVLM:
    return MedVLM(Scripted(say, **options), name="scripted")  # type: ignore[arg-type]


def _generation(text: str) -> Generation:
    return Generation(text=text, n_tokens=len(text.split()), truncated=False)
