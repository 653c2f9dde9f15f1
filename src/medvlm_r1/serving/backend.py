"""Backends of `MedVLM`: a model in this process, or one behind an OpenAI-compatible server."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from medvlm_r1.errors import UserError
from medvlm_r1.models.generate import (
    Generation,
    GenerationInput,
    GenerationSettings,
    Generator,
    LocalGenerator,
    answer_opening,
    check_images,
)
from medvlm_r1.models.remote import ServerGenerator, is_server

if TYPE_CHECKING:
    from medvlm_r1.models.load import Policy


class Closed(UserError):
    """The model was closed before an answer was complete."""

    def __init__(self) -> None:
        super().__init__("The model was closed before this was answered.")


class Pieces(Iterator[str], Protocol):
    """Pieces of one completion, in the order in which they are generated."""

    generation: Generation | None
    """The whole completion; None until all pieces have been read."""

    def close(self) -> None:
        """Stop generating."""


class Backend(Generator, Protocol):
    """A generator that can also stream a completion and compute the probabilities of the option letters."""

    def stream(self, item: GenerationInput, settings: GenerationSettings) -> Pieces:
        """Complete one item piece by piece."""

    def letters(
        self, items: Sequence[GenerationInput], prefills: Sequence[str], n_options: Sequence[int]
    ) -> list[tuple[float, ...]] | None:
        """Probabilities of the option letters after each prefill; None if the backend cannot compute them."""

    def close(self) -> None:
        """Stop all work. Later questions are refused."""


def open_backend(model: str, *, batch_size: int, dtype: Any, device: str | None) -> Backend:
    """Load a local model, or connect to a server.

    Raises:
        UserError: The model cannot be found or loaded, or the batch size is below 1.
    """
    if is_server(model):
        return RemoteBackend(ServerGenerator.parse(model, concurrency=batch_size))
    if batch_size < 1:
        raise UserError(f"batch_size is {batch_size}; it must be at least 1.")
    from medvlm_r1.models.device import limit_threads
    from medvlm_r1.models.load import load_policy

    policy = load_policy(model, dtype=dtype, device=device)
    limit_threads(policy.model)
    return LocalBackend(policy, batch_size=batch_size)


class LocalBackend:
    """A model in this process. Threads may share it; it processes one call at a time.

    Attributes:
        policy: The model and its processor.
    """

    def __init__(self, policy: Policy, *, batch_size: int = 8) -> None:
        self.policy = policy
        self._batch_size = batch_size
        self._lock = threading.Lock()
        self._closed = threading.Event()

    def generate(self, items: Sequence[GenerationInput], settings: GenerationSettings) -> list[Generation]:
        """Complete every item, in order.

        Raises:
            UserError: The numbers of images and image placeholders of an item differ.
            Closed: The backend was closed.
        """
        return self._run(items, settings, stopped=self._closed.is_set)

    def stream(self, item: GenerationInput, settings: GenerationSettings) -> Pieces:
        """Complete one item piece by piece.

        Raises:
            UserError: The numbers of images and image placeholders of the item differ.
        """
        check_images(0, item)
        return _LocalPieces(self, item, settings)

    def letters(
        self, items: Sequence[GenerationInput], prefills: Sequence[str], n_options: Sequence[int]
    ) -> list[tuple[float, ...]] | None:
        """Probabilities of the option letters after each prefill; None if letters share their first token."""
        from medvlm_r1.models.choice_logprobs import letter_probabilities

        with self._lock:
            self._check_open()
            try:
                return letter_probabilities(self.policy, items, prefills, n_options)
            except ValueError:
                return None

    def close(self) -> None:
        """Stop all work. Later questions are refused."""
        self._closed.set()

    def _check_open(self) -> None:
        if self._closed.is_set():
            raise Closed

    def _run(
        self, items: Sequence[GenerationInput], settings: GenerationSettings, *, stopped: Any, **options: Any
    ) -> list[Generation]:
        from transformers import StoppingCriteriaList

        options["stopping_criteria"] = StoppingCriteriaList([_StopWhen(stopped)])
        generator = LocalGenerator(policy=self.policy, batch_size=self._batch_size, options=options)
        with self._lock:
            self._check_open()
            generations = generator.generate(items, settings)
            self._check_open()
            return generations


class _StopWhen:
    """Stopping criterion for transformers' `generate`: stops all sequences when `stopped` returns True."""

    def __init__(self, stopped: Any) -> None:
        self._stopped = stopped

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        import torch

        return torch.full((input_ids.shape[0],), self._stopped(), dtype=torch.bool, device=input_ids.device)


class _LocalPieces(Iterator[str]):
    """A completion generated in a separate thread; the iterator yields pieces of text as they are generated."""

    def __init__(self, backend: LocalBackend, item: GenerationInput, settings: GenerationSettings) -> None:
        from transformers import TextIteratorStreamer

        self.generation: Generation | None = None
        self._backend = backend
        self._left = threading.Event()
        self._error: Exception | None = None
        tokenizer = backend.policy.processor.tokenizer
        # If the chat template already opens the think tag, the model does not generate it, so it is added here.
        self._opening = answer_opening(backend.policy.processor, item)
        self._streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._thread = threading.Thread(target=self._work, args=(item, settings), daemon=True)
        self._thread.start()

    def __next__(self) -> str:
        if self._left.is_set():
            raise StopIteration
        if self._opening:
            opening, self._opening = self._opening, ""
            return opening
        for piece in self._streamer:
            if piece:
                return str(piece)
        self._thread.join()
        self._left.set()
        if self._error is not None:
            raise self._error
        raise StopIteration

    def close(self) -> None:
        self._left.set()

    def _work(self, item: GenerationInput, settings: GenerationSettings) -> None:
        def stopped() -> bool:
            return self._left.is_set() or self._backend._closed.is_set()

        try:
            [generation] = self._backend._run([item], settings, stopped=stopped, streamer=self._streamer)
            if not self._left.is_set():
                self.generation = generation
        except Exception as error:
            self._error = error
        finally:
            # If generation failed before the first token, only this call ends the stream. A second end is never read.
            self._streamer.end()


class RemoteBackend:
    """A model behind an OpenAI-compatible server."""

    def __init__(self, generator: ServerGenerator) -> None:
        self._generator = generator

    def generate(self, items: Sequence[GenerationInput], settings: GenerationSettings) -> list[Generation]:
        """Complete every item, in order."""
        return self._generator.generate(items, settings)

    def stream(self, item: GenerationInput, settings: GenerationSettings) -> Pieces:
        """Complete one item piece by piece."""
        return self._generator.stream(item, settings)

    def letters(
        self, items: Sequence[GenerationInput], prefills: Sequence[str], n_options: Sequence[int]
    ) -> list[tuple[float, ...]] | None:
        """Return None, because servers differ in the log-probabilities that they return."""
        return None

    def close(self) -> None:
        """Do nothing: there is nothing to release."""
