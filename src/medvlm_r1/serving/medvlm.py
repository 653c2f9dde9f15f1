"""Python API: load a model, ask it questions about images, and get parsed answers.

    from medvlm_r1 import MedVLM

    with MedVLM.load("phantom-base") as model:
        answer = model.ask("ct.dcm", "Which organ is shown?", ["liver", "kidney"], window="soft-tissue")
        print(answer.option, answer.confidence, answer.notice)

The command line and the reader page use `MedVLM` too. A backend generates its answers: `LocalBackend` for a model in
this process, `ServerGenerator` for a model on a server.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Self

from medvlm_r1.data.images import Picture, View
from medvlm_r1.data.readers.fields import bare_options
from medvlm_r1.data.sample import Sample
from medvlm_r1.errors import UsageError, UserError, explain_missing_extra
from medvlm_r1.models.generate import Generation, GenerationInput, GenerationSettings, LocalGenerator, answer_opening
from medvlm_r1.models.remote import ServerGenerator, is_server
from medvlm_r1.models.shown import BoxFrame, box_frame
from medvlm_r1.prompts.templates import messages
from medvlm_r1.serving.answer import Answer, Question, load, read_answer

if TYPE_CHECKING:
    from medvlm_r1.models.load import Policy


class Closed(UserError):
    """The model was closed before an answer was complete."""

    def __init__(self) -> None:
        super().__init__("The model was closed before this was answered.")


def open_backend(model: str, *, batch_size: int, dtype: Any, device: str | None) -> LocalBackend | ServerGenerator:
    """Load a local model, or connect to a server.

    Raises:
        UserError: The model cannot be found or loaded, or the batch size is below 1.
    """
    if is_server(model):
        return ServerGenerator.parse(model, concurrency=batch_size)
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


__all__ = ["Answer", "MedVLM", "Prepared", "Question", "Stream", "prepare"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A question with its loaded images and rendered prompt."""

    item: GenerationInput
    pictures: tuple[Picture, ...]
    options: tuple[str, ...]
    template: str


class MedVLM:
    """A vision-language model that answers questions about images. Threads may share it.

    Attributes:
        name: Name of the model, as given.
        max_new_tokens: Maximum tokens per answer.
        backend: Generates the answers.
    """

    def __init__(self, backend: LocalBackend | ServerGenerator, *, name: str, max_new_tokens: int = 512) -> None:
        self.backend = backend
        self.name = name
        self.max_new_tokens = GenerationSettings(max_new_tokens=max_new_tokens).max_new_tokens

    @classmethod
    @explain_missing_extra()
    def load(
        cls,
        model: str = "phantom-base",
        *,
        max_new_tokens: int = 512,
        batch_size: int = 8,
        dtype: Any = "auto",
        device: str | None = None,
    ) -> MedVLM:
        """Load a model.

        Args:
            model: A folder, a hub id, `phantom-base`, or `openai:URL#NAME` for a model on a server.
            max_new_tokens: Maximum tokens per answer.
            batch_size: Number of questions per batch; for a server, number of concurrent requests.
            dtype: Dtype of a local model, as in `medvlm_r1.models.load.load_policy`.
            device: Device of a local model. If None, the best available device is used.

        Raises:
            UserError: The model cannot be found or loaded, or a number is invalid.
        """
        backend = open_backend(model, batch_size=batch_size, dtype=dtype, device=device)
        return cls(backend, name=model, max_new_tokens=max_new_tokens)

    def ask(
        self,
        image: Any = None,
        question: str = "",
        options: Sequence[str] = (),
        *,
        slice: int | None = None,
        window: str | None = None,
        frame: int | None = None,
        plane: str | None = None,
        series: int | None = None,
        template: str = "medvlm-r1",
        temperature: float = 0.0,
        seed: int = 0,
    ) -> Answer:
        """Ask one question.

        Args:
            image: A path (see `medvlm_r1.data.images.load_picture`), PIL image, pydicom dataset, numpy array, a list of
                these, or None. An array is (rows, columns) of uint8 or uint16, or (rows, columns, RGB) of uint8.
            question: Question text, without options.
            options: Two to ten texts; empty for an open question. Leading letters (`A. liver`) are removed if every
                option begins with its own letter.
            slice: Slice index of a volume along the normal of `plane`, from 0.
            window: Window for gray DICOM or volumes: a preset or CENTER/WIDTH. If None, the default window is used.
            frame: Frame of a multi-frame file, from 0.
            plane: Plane of a volume: axial, coronal or sagittal.
            series: DICOM series in a folder or ZIP archive, from 0.
            template: Name of a prompt template in `medvlm_r1.prompts.templates.TEMPLATES`.
            temperature: Sampling temperature; 0 is greedy.
            seed: Sampling seed.

        Raises:
            UserError: The image cannot be loaded, the question is invalid, or a server does not answer.
            UsageError: Options, view or template are invalid.
        """
        view: dict[str, Any] = {"slice": slice, "window": window, "frame": frame, "plane": plane, "series": series}
        query = Question(image=image, question=question, options=options, template=template, **view)
        return self.ask_batch([query], temperature=temperature, seed=seed)[0]

    def ask_batch(
        self, questions: Sequence[Question], *, temperature: float = 0.0, seed: int = 0, confidence: bool = True
    ) -> list[Answer]:
        """Ask several questions at once.

        Args:
            questions: Any number of questions.
            temperature: Sampling temperature; 0 is greedy.
            seed: Sampling seed, the same for each question.
            confidence: Whether to compute option probabilities, at the cost of one more forward pass per answer.

        Returns:
            The answers in the order of the questions.

        Raises:
            UserError, UsageError: See `ask`. Invalid questions are rejected before anything is generated.
        """
        prepared = [prepare(question) for question in questions]
        for question in prepared:
            self.frame(question)
        settings = self._settings(temperature, seed)
        generations = self.backend.generate([question.item for question in prepared], settings)
        return self.read(prepared, generations, confidence=confidence)

    def stream(self, query: Question, *, temperature: float = 0.0, seed: int = 0, confidence: bool = True) -> Stream:
        """Ask one question and stream the answer.

        Args:
            query: The question.
            temperature: Sampling temperature; 0 is greedy.
            seed: Sampling seed.
            confidence: Whether to compute option probabilities.

        Returns:
            An iterator over pieces of text; its `answer` is set when it ends. Closing the iterator, or leaving its
            `with` block, stops the generation.

        Raises:
            UserError, UsageError: See `ask`.
        """
        return Stream(self, prepare(query), self._settings(temperature, seed), confidence=confidence)

    def close(self) -> None:
        """Stop the model: unfinished answers fail and later questions are rejected."""
        self.backend.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def frame(self, question: Prepared) -> BoxFrame | None:
        """The coordinates of the boxes in the answer; None if the template asks for none.

        Raises:
            UsageError: The template asks for pixels, and the model is not a Qwen-VL model on this machine.
        """
        policy = getattr(self.backend, "policy", None)
        sizes = [picture.image.size for picture in question.pictures]
        return box_frame(sizes, question.template, policy and policy.processor.image_processor)

    def _settings(self, temperature: float, seed: int) -> GenerationSettings:
        return GenerationSettings(max_new_tokens=self.max_new_tokens, temperature=temperature, seed=seed)

    def read(
        self, prepared: Sequence[Prepared], generations: Sequence[Generation], *, confidence: bool = True
    ) -> list[Answer]:
        """Parse completions into answers.

        Args:
            prepared: The questions.
            generations: One completion per question.
            confidence: Whether to compute option probabilities.
        """
        prefills = [prefill_to_answer(generation.text) for generation in generations] if confidence else []
        rows = [row for row, prefill in enumerate(prefills) if prefill and prepared[row].options]
        scored = self.backend.letters(
            [prepared[row].item for row in rows],
            [prefills[row] or "" for row in rows],
            [len(prepared[row].options) for row in rows],
        )
        probabilities = dict(zip(rows, scored, strict=True)) if scored else {}
        return [
            read_answer(
                generation,
                question.options,
                [picture.note for picture in question.pictures],
                probabilities.get(row),
                self.frame(question),
            )
            for row, (question, generation) in enumerate(zip(prepared, generations, strict=True))
        ]


class Stream(Iterator[str]):
    """Iterator over the pieces of an answer's text, as they are generated.

    Attributes:
        pictures: The images shown to the model, with their notes; available from the start.
        frame: Coordinates of the boxes in the answer; None if the template asks for none.
        answer: The complete answer; None until the stream ends.
    """

    def __init__(self, model: MedVLM, prepared: Prepared, settings: GenerationSettings, *, confidence: bool) -> None:
        self.pictures, self.frame = prepared.pictures, model.frame(prepared)
        self.answer: Answer | None = None

        def pieces() -> Generator[str, None, None]:
            generation = yield from model.backend.stream(prepared.item, settings)
            [self.answer] = model.read([prepared], [generation], confidence=confidence)

        self._pieces = pieces()

    def __next__(self) -> str:
        return next(self._pieces)

    def close(self) -> None:
        """Stop generation, if it is still running."""
        self._pieces.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def prepare(query: Question) -> Prepared:
    """Load the images of a question and render its prompt.

    Raises:
        UserError, UsageError: See `MedVLM.ask`.
    """
    options = bare_options(query.options)
    images = query.image if isinstance(query.image, list | tuple) else [query.image]
    images = [image for image in images if image is not None]
    try:
        sample = Sample(
            id="ask",
            images=tuple(f"images/{index}" for index in range(len(images))),
            question=query.question,
            options=options,
            answer=options[0] if options else "unknown",
            modality="unknown",
        )
    except ValueError as error:
        raise UsageError(f"This question cannot be asked: {error}.") from error
    view = View(frame=query.frame, plane=query.plane, slice=query.slice, window=query.window, series=query.series)
    pictures = tuple(load(image, view) for image in images)
    item = GenerationInput(prompt=messages(sample, query.template), images=[picture.image for picture in pictures])
    return Prepared(item=item, pictures=pictures, options=options, template=query.template)


def prefill_to_answer(text: str) -> str | None:
    """Return the text up to and including the first opening answer tag; None if there is no such tag."""
    before, tag, _ = text.partition("<answer>")
    return before + tag if tag else None
