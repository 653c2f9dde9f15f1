"""A process of its own for what is measured, so that its memory is its own and its end gives everything back."""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, Self

from medvlm_r1.errors import UserError
from medvlm_r1.training.reliability.resources import out_of_memory


class OutOfMemory(UserError):
    """What was measured needs more memory than there is."""


class Child:
    """Runs `target(pipe, *args)` in a new process; the target sends its figures through the pipe.

    Args:
        target: A function of a module; it reports its own failure with `reported`.
        args: What it is given after the pipe.
    """

    def __init__(self, target: Callable[..., None], *args: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=target, args=(theirs, *args), daemon=True)
        self._process.start()
        theirs.close()

    def tell(self, message: Any) -> None:
        """Send something."""
        self._pipe.send(message)

    def answer(self) -> dict[str, Any]:
        """Wait for the next figures.

        Raises:
            OutOfMemory: The process asked for more memory than there is, or died, which most often means the same.
            UserError: It failed.
        """
        try:
            answer: dict[str, Any] = self._pipe.recv()
        except EOFError as error:
            raise OutOfMemory(
                "The measured process died; most often it ran out of memory. Take a smaller preset."
            ) from error
        if "error" in answer:
            kind = OutOfMemory if answer["out_of_memory"] else UserError
            raise kind(f"The measured process failed: {answer['error']}")
        return answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self._pipe.close()
        # It ends by itself when it has nothing more to do, or finds the pipe closed.
        self._process.join(10)
        self._process.terminate()
        self._process.join()


@contextmanager
def reported(pipe: Any) -> Iterator[None]:
    """In the child: send a failure to the parent instead of raising it."""
    try:
        yield
    except EOFError:
        pass  # the other end has gone
    except Exception as error:
        traceback.print_exc()
        with suppress(OSError):
            pipe.send({"error": f"{type(error).__name__}: {error}", "out_of_memory": out_of_memory(error)})
