"""Errors behind the page are shown on it, without what was asked."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from medvlm_r1.errors import UserError
from medvlm_r1.serving.page.events import guarded


def test_an_error_for_users_is_shown_as_text_after_what_was_shown_before() -> None:
    def steps(count: int) -> Iterator[dict[str, int]]:
        yield from ({"step": number} for number in range(count))
        raise UserError("a<b>.dcm: damaged")

    message = '<p class="message" role="alert">a&lt;b&gt;.dcm: damaged</p>'
    shown = list(guarded(steps, "box", {"other": None})(2))
    assert shown == [{"step": 0}, {"step": 1}, {"box": message, "other": None}]


def test_an_error_of_the_program_shows_its_type_and_nothing_of_the_case(caplog: pytest.LogCaptureFixture) -> None:
    def fail(question: str) -> Iterator[dict[str, str]]:
        yield {}
        raise ValueError(f"cannot answer {question}")

    with caplog.at_level(logging.DEBUG):
        *_, updates = guarded(fail, "box")("Has Anna a fracture?")
    assert "(ValueError)" in updates["box"]
    assert "(ValueError)" in caplog.text
    assert "Anna" not in updates["box"] + caplog.text


def test_closing_reaches_the_work_behind() -> None:
    closed = []

    def steps() -> Iterator[dict[str, int]]:
        try:
            while True:
                yield {"step": 0}
        finally:
            closed.append(True)

    running = guarded(steps, "box")()
    next(running)
    running.close()
    assert closed == [True]
