"""What goes wrong behind the page: said on it in words, and without what was asked."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from medvlm_r1.errors import UserError
from medvlm_r1.serving.page.events import guarded


def test_an_error_for_users_is_shown_as_text() -> None:
    def fail() -> dict[str, str]:
        raise UserError("a<b>.dcm: damaged")

    told = guarded(fail, "place", also={"other": None})()
    assert told["place"] == '<p class="message" role="alert">a&lt;b&gt;.dcm: damaged</p>'
    assert told["other"] is None


def test_an_error_of_the_program_tells_its_kind_and_nothing_of_the_case(caplog: pytest.LogCaptureFixture) -> None:
    def fail(question: str) -> dict[str, str]:
        raise ValueError(f"cannot answer {question}")

    with caplog.at_level(logging.DEBUG):
        told = guarded(fail, "place")("Has Anna a fracture?")
    assert "(ValueError)" in told["place"]
    assert "(ValueError)" in caplog.text
    assert "Anna" not in told["place"] + caplog.text


def test_what_was_shown_before_an_error_stays() -> None:
    def steps(count: int) -> Iterator[dict[str, int]]:
        yield from ({"step": number} for number in range(count))
        raise UserError("then it broke")

    *shown, told = guarded(steps, "place")(2)
    assert shown == [{"step": 0}, {"step": 1}]
    assert "then it broke" in told["place"]


def test_closing_reaches_the_work_behind() -> None:
    closed = []

    def steps() -> Iterator[dict[str, int]]:
        try:
            while True:
                yield {"step": 0}
        finally:
            closed.append(True)

    running = guarded(steps, "place")()
    next(running)
    running.close()
    assert closed == [True]
