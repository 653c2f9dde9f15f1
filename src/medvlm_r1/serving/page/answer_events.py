"""Event handlers of the reader page: ask, check, history and save."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import gradio as gr

from medvlm_r1.report.case import render_answer, render_case, render_looks
from medvlm_r1.serving.medvlm import MedVLM
from medvlm_r1.serving.page.case import Asked, ask, make_question
from medvlm_r1.serving.page.image import Choice, Source
from medvlm_r1.serving.page.image_events import QUIET
from medvlm_r1.serving.page.layout import Parts
from medvlm_r1.serving.page.message import Updates, guarded, message
from medvlm_r1.serving.page.second_look import WAYS, second_look

_REDRAW_SECONDS = 0.08
_MOST_PAST = 50
_MOST_BYTES = 2**29

_SAVE = """(html, number) => {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([html], {type: "text/html"}));
  link.download = `case-${(number ?? 0) + 1}.html`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  return [];
}"""


def wire_answer(parts: Parts, medvlm: MedVLM) -> None:
    """Connect the components around the question and the answer."""
    buttons = [parts.ask, parts.stop, parts.look, parts.export]
    shown = [parts.answer, parts.looks, parts.message, *buttons]

    def on_ask(source: Source | None, *values: Any) -> Iterator[Updates]:
        *view, question, options, past = values
        asked = make_question(source, Choice.of(view), question, options)
        assert source is not None
        # Until there is an answer, no case can be saved or checked.
        yield {
            **_busy(parts),
            parts.message: "",
            parts.looks: "",
            parts.current: None,
            parts.history: gr.update(value=None),
        }
        drawn = 0.0
        for step in ask(medvlm, source, asked):
            if isinstance(step, Asked):
                kept = keep([*past, step])
                yield {**_done(parts, kept, len(kept) - 1), parts.answer: render_answer(step.case)}
            elif time.monotonic() - drawn >= _REDRAW_SECONDS:
                yield {parts.answer: render_answer(step)}
                drawn = time.monotonic()

    def on_look(past: Sequence[Asked], current: int | None) -> Iterator[Updates]:
        if current is None:
            return
        yield {**_busy(parts), parts.message: _progress(0)}
        kept = list(past)
        for done, asked in enumerate(second_look(medvlm, past[current]), start=1):
            kept[current] = asked
            yield {parts.looks: render_looks(asked.case), parts.message: _progress(done)}
        yield {**_done(parts, kept, current), parts.message: ""}

    def on_history(chosen: int | None, past: Sequence[Asked]) -> Updates:
        if chosen is None:
            return {}
        case = past[chosen].case
        shown = {parts.answer: render_answer(case), parts.looks: render_looks(case), parts.message: ""}
        return {**shown, **_free(parts, case=True), parts.current: chosen}

    def on_export(past: Sequence[Asked], current: int | None) -> Updates:
        return {parts.file: "" if current is None else render_case(past[current].case)}

    def on_stop(current: int | None) -> Updates:
        return {**_free(parts, case=current is not None), parts.message: message("Stopped.")}

    session = [parts.history, parts.past, parts.current]
    asking = parts.ask.click(
        guarded(on_ask, parts.message, also=_free(parts, case=False)),
        [parts.source, *parts.controls.all(), parts.question, parts.options, parts.past],
        [*shown, *session],
        **QUIET,
    )
    looking = parts.look.click(
        guarded(on_look, parts.message, also=_free(parts, case=True)),
        [parts.past, parts.current],
        [*shown, *session],
        **QUIET,
    )
    parts.stop.click(on_stop, [parts.current], shown, cancels=[asking, looking], **QUIET)
    parts.history.input(
        guarded(on_history, parts.message), [parts.history, parts.past], [*shown, parts.current], **QUIET
    )
    saved = parts.export.click(
        guarded(on_export, parts.message), [parts.past, parts.current], [parts.file, parts.message], **QUIET
    )
    saved.then(None, [parts.file, parts.current], [], js=_SAVE)


def keep(past: Sequence[Asked]) -> list[Asked]:
    """Return the newest cases of a session, within the limits on number and memory."""
    kept: list[Asked] = []
    files: dict[int, int] = {}
    for asked in reversed(past[-_MOST_PAST:]):
        files[id(asked.source.file)] = asked.source.file.stat().st_size
        if kept and sum(files.values()) > _MOST_BYTES:
            break
        kept.insert(0, asked)
    return kept


def _busy(parts: Parts) -> Updates:
    off = gr.update(interactive=False)
    return {parts.ask: off, parts.look: off, parts.export: off, parts.stop: gr.update(visible=True)}


def _free(parts: Parts, *, case: bool) -> Updates:
    """Return the idle state; `case` is whether a case can be checked and saved."""
    open_ = gr.update(interactive=case)
    return {
        parts.ask: gr.update(interactive=True),
        parts.stop: gr.update(visible=False),
        parts.look: open_,
        parts.export: open_,
    }


def _done(parts: Parts, past: list[Asked], current: int) -> Updates:
    labels = [(f"{place + 1}. {_line(asked)}", place) for place, asked in enumerate(past)]
    return {
        **_free(parts, case=True),
        parts.past: past,
        parts.current: current,
        parts.history: gr.update(choices=labels, value=current, visible=True),
    }


def _line(asked: Asked) -> str:
    return f"{asked.case.question} — {asked.case.reply.answer or 'no answer in the required format'}"


def _progress(done: int) -> str:
    return f'<p class="progress" role="status">Second look: {done} of {len(WAYS)}</p>'
