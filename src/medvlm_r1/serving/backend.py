"""What writes the answers: a model in this process, or one on a server. Both look the same from `MedVLM`."""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from medvlm_r1.policy.generate import Generation, GenerationInput, GenerationSettings, Generator
from medvlm_r1.policy.server import ServerGenerator, is_server

if TYPE_CHECKING:
    from medvlm_r1.serving.engine import Engine
    from medvlm_r1.serving.job import Event


class Pieces(Iterator[str], Protocol):
    """Pieces of one completion as they are written."""

    generation: Generation | None
    """All of it, once the pieces have ended."""

    def close(self) -> None:
        """Stop writing."""
        ...


class Backend(Generator, Protocol):
    """A generator that can also be read along and asked for letters."""

    def stream(self, item: GenerationInput, settings: GenerationSettings) -> Pieces:
        """Complete one item piece by piece."""
        ...

    def letters(
        self, items: Sequence[GenerationInput], turns: Sequence[str], n_options: Sequence[int]
    ) -> list[tuple[float, ...]] | None:
        """`medvlm_r1.policy.letters.letter_probabilities`; None where that cannot be known."""
        ...

    def close(self) -> None:
        """Let go of what it holds."""
        ...


def open_backend(model: str, *, max_batch: int, queue: int | None, dtype: Any, device: str | None) -> Backend:
    """Load a local model, or get ready to ask a server.

    Raises:
        UserError: The model cannot be found or loaded, or a number is not usable.
    """
    if is_server(model):
        return ServerBackend(ServerGenerator.parse(model, concurrency=max_batch))
    from medvlm_r1.policy.load import load_policy
    from medvlm_r1.policy.threads import limit_threads
    from medvlm_r1.serving.engine import Engine

    policy = load_policy(model, dtype=dtype, device=device)
    limit_threads(policy.model)
    return LocalBackend(Engine(policy, max_batch=max_batch, queue=queue))


class LocalBackend:
    """A model in this process."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    def generate(self, items: Sequence[GenerationInput], settings: GenerationSettings) -> list[Generation]:
        """As `Generator`."""
        return self.engine.generate(items, settings)

    def stream(self, item: GenerationInput, settings: GenerationSettings) -> Pieces:
        """As `Backend`."""
        return _LocalPieces(self.engine, item, settings)

    def letters(
        self, items: Sequence[GenerationInput], turns: Sequence[str], n_options: Sequence[int]
    ) -> list[tuple[float, ...]] | None:
        """As `Backend`."""
        from medvlm_r1.policy.letters import letter_probabilities

        engine = self.engine
        try:
            # One at a time, so that others' answers go on between them.
            return [
                engine.call(partial(letter_probabilities, engine.policy, [item], [turn], [n]))[0]
                for item, turn, n in zip(items, turns, n_options, strict=True)
            ]
        except ValueError:
            return None

    def close(self) -> None:
        """Stop the engine."""
        self.engine.close()


class _LocalPieces(Iterator[str]):
    def __init__(self, engine: Engine, item: GenerationInput, settings: GenerationSettings) -> None:
        from medvlm_r1.serving.job import Job

        self.generation: Generation | None = None
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._job = Job(item=item, settings=settings, tell=self._events.put, live=True)
        self._over = False
        engine.submit(self._job)

    def __next__(self) -> str:
        from medvlm_r1.serving.job import Done, Failed, Piece

        while not self._over:
            event = self._events.get()
            if isinstance(event, Piece):
                return event.text
            if isinstance(event, Failed):
                self._over = True
                raise event.error
            if isinstance(event, Done):
                self._over = True
                self.generation = event.generation
        raise StopIteration

    def close(self) -> None:
        self._over = True
        self._job.cancel()


class ServerBackend:
    """A model on a server."""

    def __init__(self, generator: ServerGenerator) -> None:
        self._generator = generator

    def generate(self, items: Sequence[GenerationInput], settings: GenerationSettings) -> list[Generation]:
        """As `Generator`."""
        return self._generator.generate(items, settings)

    def stream(self, item: GenerationInput, settings: GenerationSettings) -> Pieces:
        """As `Backend`."""
        return self._generator.stream(item, settings)

    def letters(
        self, items: Sequence[GenerationInput], turns: Sequence[str], n_options: Sequence[int]
    ) -> list[tuple[float, ...]] | None:
        """None: servers differ in what they tell of their tokens."""
        return None

    def close(self) -> None:
        """Nothing is held."""
