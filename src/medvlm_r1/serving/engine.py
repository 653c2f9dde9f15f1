"""One thread that owns a model and writes all answers with it, those that wait together.

Rows join the batch as requests come and leave it as they end (`medvlm_r1.serving.rows`). A model that cannot be run so
is completed batch by batch with `LocalGenerator`; its answers then come in one piece.
"""

from __future__ import annotations

import itertools
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from medvlm_r1.errors import UserError
from medvlm_r1.policy.generate import (
    Generation,
    GenerationInput,
    GenerationSettings,
    LocalGenerator,
    answer_opening,
    check_images,
    end_tokens,
    opened,
)
from medvlm_r1.policy.linears import answering
from medvlm_r1.policy.load import Policy, vision_token_ids
from medvlm_r1.policy.processor import ImageFit
from medvlm_r1.serving.job import Done, Event, Failed, Job, Piece, Row, Started, first_stop
from medvlm_r1.serving.rows import NotByRows, Rows
from medvlm_r1.serving.sampling import next_tokens, scored

T = TypeVar("T")
# Prompts read at once at most, as many as `LocalGenerator` takes; between two such readings every row goes on a token.
_PROMPTS = 8
# While rows are under way, so many prompts are waited for, or so long: read together they cost a third less.
_GATHERED = 4
_GATHER_SECONDS = 0.05


class Busy(Exception):
    """As many requests wait as may. `seconds` is when to try again."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"The queue is full; try again in {seconds} s.")
        self.seconds = seconds


class Closed(UserError):
    """The engine was stopped first."""


@dataclass(slots=True)
class Counts:
    """What the engine has done, for metrics."""

    prompt_tokens: int = 0
    generated_tokens: int = 0
    steps: int = 0
    cancelled: int = 0


class Engine:
    """Completes requests with a local policy. Any thread may submit; see `medvlm_r1.serving.job.Job`.

    Attributes:
        counts: What has been done so far.
    """

    def __init__(self, policy: Policy, *, max_batch: int = 32, queue: int | None = None) -> None:
        for name, number in (("max_batch", max_batch), ("queue", queue)):
            if number is not None and number < 1:
                raise UserError(f"{name} is {number}; it must be at least 1.")
        self.max_batch = max_batch
        self.policy = policy
        self.counts = Counts()
        self._limit = queue
        self._tokenizer = policy.processor.tokenizer
        self._ends = frozenset(end_tokens(policy.model, self._tokenizer))
        self._suppressed = vision_token_ids(policy.model, policy.processor)
        self._fit = ImageFit(model=policy.name, processor=policy.processor.image_processor)
        self._waiting: deque[Job] = deque()
        self._calls: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._rows: list[Row] = []
        self._batch = Rows(policy)
        self._by_rows = True
        self._wake = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closing = self._retired = False
        self._seconds = 1.0

    @property
    def waiting(self) -> int:
        """Requests whose prompt has not been read."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Completions under way."""
        return len(self._rows)

    def submit(self, job: Job, *, bounded: bool = False) -> None:
        """Put a request in the queue.

        Args:
            job: The request.
            bounded: Whether the queue's limit holds for it.

        Raises:
            Busy: The queue is full.
            Closed: The engine was retired.
            UserError: More completions than rows, or images and placeholders differ in number.
        """
        check_images(0, job.item, self._fit)
        if not 1 <= job.n <= self.max_batch:
            raise UserError(f"n is {job.n}; wanted 1 to {self.max_batch}.")
        with self._wake:
            self._check_open()
            if bounded and self._limit is not None and len(self._waiting) >= self._limit:
                rounds = 1 + len(self._waiting) // self.max_batch
                raise Busy(max(1, math.ceil(rounds * self._seconds)))
            job.submitted = time.monotonic()
            self._waiting.append(job)
            self._start()

    def call(self, work: Callable[[], T]) -> T:
        """Run something with the model between two steps, and wait for it.

        Raises:
            Closed: The engine was stopped first, or retired.
        """
        future: Future[T] = Future()
        with self._wake:
            self._check_open()
            self._calls.append((work, future))
            self._start()
        return future.result()

    def generate(self, items: Sequence[GenerationInput], settings: GenerationSettings) -> list[Generation]:
        """Complete every item; the results stand in the order of the items (`policy.generate.Generator`).

        Raises:
            UserError: An item cannot be completed.
        """
        events: queue.SimpleQueue[tuple[int, Event]] = queue.SimpleQueue()
        jobs = [Job(item=item, settings=settings, tell=_tagged(events, i)) for i, item in enumerate(items)]
        for index, item in enumerate(items):
            check_images(index, item, self._fit)
        results: dict[int, Generation] = {}
        try:
            for job in jobs:
                self.submit(job)
            while len(results) < len(jobs):
                index, event = events.get()
                if isinstance(event, Failed):
                    raise event.error
                if isinstance(event, Done):
                    results[index] = event.generation
        except BaseException:
            for job in jobs:
                job.cancel()
            raise
        return [results[index] for index in range(len(jobs))]

    def close(self) -> None:
        """Stop the thread and let go of the rows. What waits or runs fails; a later request starts it again."""
        with self._wake:
            thread, self._closing = self._thread, True
            self._wake.notify_all()
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        with self._wake:
            self._thread, self._closing = None, False

    def retire(self) -> None:
        """`close`, after which no request is taken."""
        with self._wake:
            self._retired = True
        self.close()

    def _check_open(self) -> None:
        if self._retired:
            raise Closed("The model is being closed.")

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="medvlm-engine", daemon=True)
            self._thread.start()
        self._wake.notify_all()

    def _run(self) -> None:
        with torch.inference_mode(), answering(self.policy.model, most_rows=self.max_batch):
            while True:
                with self._wake:
                    while not (self._closing or self._waiting or self._calls or self._rows):
                        self._wake.wait()
                    if self._closing:
                        break
                    calls = [self._calls.popleft() for _ in range(len(self._calls))]
                for work, future in calls:
                    _settle(work, future)
                try:
                    self._drop_cancelled()
                    self._admit()
                    if self._rows:
                        self._step()
                except Exception as error:  # out of memory, as a rule: nobody may wait for ever
                    self._fail_running(error)
        self._fail_all(Closed("The model was closed before this was answered."))

    def _drop_cancelled(self) -> None:
        with self._wake:
            gone = [job for job in self._waiting if job.cancelled]
            for job in gone:
                self._waiting.remove(job)
            self.counts.cancelled += len(gone)
        under_way = {id(row.job) for row in self._rows if row.job.cancelled}
        if under_way:
            self.counts.cancelled += len(under_way)
            self._keep([place for place, row in enumerate(self._rows) if not row.job.cancelled])

    def _admit(self) -> None:
        """Read the prompts of the first in the queue for which there is room."""
        jobs: list[Job] = []
        free = self.max_batch - len(self._rows)
        with self._wake:
            if self._rows and len(self._waiting) < min(_GATHERED, free) and self._young():
                return
            while self._waiting and len(jobs) < _PROMPTS and self._waiting[0].n <= free:
                # A batch has images in all its prompts or in none.
                if jobs and bool(jobs[0].item.images) != bool(self._waiting[0].item.images):
                    break
                jobs.append(self._waiting.popleft())
                free -= jobs[-1].n
        if jobs:
            self._read(jobs)

    def _young(self) -> bool:
        return not self._waiting or time.monotonic() - self._waiting[0].submitted < _GATHER_SECONDS

    def _read(self, jobs: Sequence[Job]) -> None:
        try:
            if not self._by_rows:
                raise NotByRows
            lengths = self._batch.join([job.item for job in jobs], [job.n for job in jobs])
        except NotByRows:
            self._by_rows = False
            for job in jobs:
                self._alone(job)
            return
        except Exception as error:
            if len(jobs) == 1:
                jobs[0].tell(Failed(error))
                return
            # One of them is at fault, and the others must not pay for it.
            for job in jobs:
                self._read([job])
            return
        for job, length in zip(jobs, lengths, strict=True):
            self.counts.prompt_tokens += length
            job.tell(Started(length))
            most = min(job.settings.max_new_tokens, self._room(length))
            job.started = time.monotonic()
            opening = answer_opening(self.policy.processor, job.item)
            self._rows += [Row(job, index, self._tokenizer, most, opening) for index in range(job.n)]

    def _room(self, length: int) -> int:
        most = getattr(self.policy.model.config.get_text_config(), "max_position_embeddings", None)
        return max(1, most - length) if most is not None else 2**31

    def _step(self) -> None:
        """One token for every row; those that end leave before the next is computed."""
        logits = self._batch.logits
        logits[:, self._suppressed] = float("-inf")
        tokens = next_tokens(logits, self._rows)
        known = scored(logits, self._rows, tokens)
        self.counts.steps += 1
        self.counts.generated_tokens += len(tokens)
        alive = [
            place
            for place, (row, token, one) in enumerate(zip(self._rows, tokens, known, strict=True))
            if not row.add(token, self._ends, one)
        ]
        if len(alive) < len(self._rows):
            alive = self._keep(alive)
        if alive:
            self._batch.step(torch.tensor([tokens[place] for place in alive], device=logits.device))

    def _keep(self, places: Sequence[int]) -> list[int]:
        """Keep the rows at these places; returns them in their new order, in which the last fill the gaps."""
        count = len(places)
        stay = set(places)
        last = iter([place for place in places if place >= count])
        order = [place if place in stay else next(last) for place in range(count)]
        for row in itertools.compress(self._rows, [place not in stay for place in range(len(self._rows))]):
            self._seconds += 0.1 * (time.monotonic() - row.job.started - self._seconds)
        self._rows = [self._rows[place] for place in order]
        self._batch.keep(order)
        return order

    def _alone(self, job: Job) -> None:
        if job.top_logprobs is not None or job.top_p < 1:
            job.tell(Failed(UserError("logprobs and top_p are not offered for this kind of model.")))
            return
        try:
            texts = [opened(self.policy.processor, job.item)]
            inputs = self.policy.processor(text=texts, images=list(job.item.images) or None, return_tensors="pt")
            job.tell(Started(inputs["input_ids"].shape[1]))
            generator = LocalGenerator(policy=self.policy, batch_size=job.n)
            done = generator.generate([job.item] * job.n, job.settings)
        except Exception as error:
            job.tell(Failed(error))
            return
        opening = answer_opening(self.policy.processor, job.item)
        for index, generation in enumerate(done):
            written = generation.text.removeprefix(opening)
            cut = first_stop(written, job.stop)
            text = opening + written[:cut]
            whole = Generation(text=text, n_tokens=generation.n_tokens, truncated=generation.truncated and cut is None)
            if job.live:
                job.tell(Piece(index, text))
            job.tell(Done(index, whole, "length" if whole.truncated else "stop"))

    def _fail_running(self, error: Exception) -> None:
        failed = {id(row.job): row.job for row in self._rows}
        self._rows = []
        self._batch.clear()
        for job in failed.values():
            job.tell(Failed(error))

    def _fail_all(self, error: Exception) -> None:
        self._fail_running(error)
        with self._wake:
            jobs, calls = list(self._waiting), list(self._calls)
            self._waiting.clear()
            self._calls.clear()
        for job in jobs:
            job.tell(Failed(error))
        for _, future in calls:
            future.set_exception(error)


def _tagged(events: queue.SimpleQueue[tuple[int, Event]], index: int) -> Callable[[Event], None]:
    return lambda event: events.put((index, event))


def _settle(work: Callable[[], T], future: Future[T]) -> None:
    try:
        future.set_result(work())
    except Exception as error:
        future.set_exception(error)
