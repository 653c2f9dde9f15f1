"""Python API: load a model, ask it questions about images, and get parsed answers.

    from medvlm_r1 import MedVLM

    with MedVLM.load("phantom-base") as model:
        answer = model.ask("ct.dcm", "Which organ is shown?", ["liver", "kidney"], window="soft-tissue")
        print(answer.option, answer.confidence, answer.notice)

The command line and the reader page use `MedVLM` too.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

from medvlm_r1.data.images import Picture, View
from medvlm_r1.data.readers.fields import bare_options
from medvlm_r1.data.sample import Sample
from medvlm_r1.errors import UsageError, explain_missing_extra
from medvlm_r1.models.generate import Generation, GenerationInput, GenerationSettings
from medvlm_r1.prompts.templates import messages
from medvlm_r1.serving.answer import Answer, Question, read_answer
from medvlm_r1.serving.backend import LocalBackend, RemoteBackend, open_backend
from medvlm_r1.serving.pictures import load

__all__ = ["Answer", "MedVLM", "Prepared", "Question", "Stream", "prepare"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A question with its loaded images and rendered prompt."""

    item: GenerationInput
    pictures: tuple[Picture, ...]
    options: tuple[str, ...]


class MedVLM:
    """A vision-language model that answers questions about images. Threads may share it.

    Attributes:
        name: Name of the model, as given.
        max_new_tokens: Maximum tokens per answer.
        backend: Generates the answers.
    """

    def __init__(self, backend: LocalBackend | RemoteBackend, *, name: str, max_new_tokens: int = 512) -> None:
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
                generation, question.options, [picture.note for picture in question.pictures], probabilities.get(row)
            )
            for row, (question, generation) in enumerate(zip(prepared, generations, strict=True))
        ]


class Stream(Iterator[str]):
    """Iterator over the pieces of an answer's text, as they are generated.

    Attributes:
        pictures: The images shown to the model, with their notes; available from the start.
        answer: The complete answer; None until the stream ends.
    """

    def __init__(self, model: MedVLM, prepared: Prepared, settings: GenerationSettings, *, confidence: bool) -> None:
        self.pictures = prepared.pictures
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
    return Prepared(item=item, pictures=pictures, options=options)


def prefill_to_answer(text: str) -> str | None:
    """Return the text up to and including the first opening answer tag; None if there is no such tag."""
    before, tag, _ = text.partition("<answer>")
    return before + tag if tag else None
