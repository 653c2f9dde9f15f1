"""Backends of `MedVLM`: a model in this process, or one behind an OpenAI-compatible server."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

from medvlm_r1.errors import UserError
from medvlm_r1.models.generate import Generation, GenerationInput, GenerationSettings, LocalGenerator, answer_opening
from medvlm_r1.models.remote import ServerGenerator, is_server

if TYPE_CHECKING:
    from medvlm_r1.models.load import Policy


class Closed(UserError):
    """The model was closed before an answer was complete."""

    def __init__(self) -> None:
        super().__init__("The model was closed before this was answered.")


def open_backend(model: str, *, batch_size: int, dtype: Any, device: str | None) -> LocalBackend | RemoteBackend:
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
        return self._run(items, settings)

    def stream(self, item: GenerationInput, settings: GenerationSettings) -> Generator[str, None, Generation]:
        """Yield the pieces of one completion as they are generated, and return the whole. Closing stops generation.

        Raises:
            UserError: See `generate`.
        """
        from transformers import TextIteratorStreamer

        processor = self.policy.processor
        streamer = TextIteratorStreamer(processor.tokenizer, skip_prompt=True, skip_special_tokens=True)
        left = threading.Event()
        outcome: Future[list[Generation]] = Future()

        def work() -> None:
            try:
                outcome.set_result(self._run([item], settings, left, streamer=streamer))
            except Exception as error:
                outcome.set_exception(error)
            # If generation failed before the first token, only this call ends the stream.
            streamer.end()

        threading.Thread(target=work, daemon=True).start()
        try:
            # If the chat template already opens the think tag, the model does not generate it, so it is added here.
            yield from filter(None, chain([answer_opening(processor, item)], streamer))
        finally:
            left.set()
        [generation] = outcome.result()
        return generation

    def letters(
        self, items: Sequence[GenerationInput], prefills: Sequence[str], n_options: Sequence[int]
    ) -> list[tuple[float, ...]] | None:
        """Probabilities of the option letters after each prefill; None if letters share their first token."""
        from medvlm_r1.models.choice_logprobs import letter_probabilities

        with self._exclusive():
            try:
                return letter_probabilities(self.policy, items, prefills, n_options)
            except ValueError:
                return None

    def close(self) -> None:
        """Stop all work. Later questions are refused."""
        self._closed.set()

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        """Wait for other calls. Raise `Closed` if the backend is closed before the work is done."""
        with self._lock:
            if self._closed.is_set():
                raise Closed
            yield
            if self._closed.is_set():
                raise Closed

    def _run(
        self, items: Sequence[GenerationInput], settings: GenerationSettings, *stop: threading.Event, **options: Any
    ) -> list[Generation]:
        import torch
        from transformers import StoppingCriteriaList

        def stopped(input_ids: Any, scores: Any, **_: Any) -> Any:
            ended = any(event.is_set() for event in (self._closed, *stop))
            return torch.full((input_ids.shape[0],), ended, dtype=torch.bool, device=input_ids.device)

        options["stopping_criteria"] = StoppingCriteriaList([stopped])
        with self._exclusive():
            generator = LocalGenerator(policy=self.policy, batch_size=self._batch_size, options=options)
            return generator.generate(items, settings)


class RemoteBackend:
    """A model behind an OpenAI-compatible server."""

    def __init__(self, generator: ServerGenerator) -> None:
        self._generator = generator

    def generate(self, items: Sequence[GenerationInput], settings: GenerationSettings) -> list[Generation]:
        """Complete every item, in order."""
        return self._generator.generate(items, settings)

    def stream(self, item: GenerationInput, settings: GenerationSettings) -> Generator[str, None, Generation]:
        """Yield the pieces of one completion as the server sends them, and return the whole."""
        pieces = self._generator.stream(item, settings)
        yield from pieces
        assert pieces.generation is not None
        return pieces.generation

    def letters(
        self, items: Sequence[GenerationInput], prefills: Sequence[str], n_options: Sequence[int]
    ) -> list[tuple[float, ...]] | None:
        """Return None, because servers differ in the log-probabilities that they return."""
        return None

    def close(self) -> None:
        """Do nothing: there is nothing to release."""
