"""Event handlers of the reader page."""

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from medvlm_r1.data.images import Picture, View, Window
from medvlm_r1.errors import UserError
from medvlm_r1.report.case import render_answer, render_case, render_checks
from medvlm_r1.report.page import picture_uri, render_page
from medvlm_r1.serving.medvlm import MedVLM
from medvlm_r1.serving.page.case import CHECKS, Entry, ask, make_question, run_checks
from medvlm_r1.serving.page.gate import is_upload
from medvlm_r1.serving.page.image import AUTOMATIC, ONLY_AUTOMATIC, OWN, Choice, Source, open_source
from medvlm_r1.serving.page.layout import EXAMPLES, Example, Layout, page_file

Updates = dict[Any, Any]

_QUIET: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": 8, "api_visibility": "private"}
"""Arguments of every event: no progress overlay and no public API endpoint."""
_IMAGE_SIDE = 768
_REDRAW_SECONDS = 0.08
_MAX_CASES = 50
_MAX_BYTES = 2**29

_log = logging.getLogger(__name__)


def guarded(handler: Callable[..., Iterator[Updates]], box: Any, also: Updates | None = None) -> Callable[..., Any]:
    """Wrap an event handler so that it shows errors instead of raising them.

    Args:
        handler: Generator function of component updates.
        box: The component that shows the message.
        also: Additional updates to make on an error.
    """

    def run(*values: Any) -> Iterator[Updates]:
        try:
            yield from handler(*values)
        except Exception as error:
            text = str(error)
            if not isinstance(error, UserError):
                # Log only the type: the text may quote the question or the file name.
                _log.error("Internal error on the reader page (%s).", type(error).__name__)
                text = f"Internal error ({type(error).__name__}). Try again, or reload the page."
            yield {box: _message(text), **(also or {})}

    return run


def _message(text: str) -> Markup:
    """Return a message as HTML, announced by screen readers."""
    return Markup('<p class="message" role="alert">{}</p>').format(text)


def wire_image(page: Layout) -> None:
    """Connect event handlers to the components around the image: upload, examples and view controls."""
    viewed = [page.picture, *page.controls, page.message]
    opened = [page.source, page.drop, page.view, page.question, page.options, *viewed]

    def upload(given: dict[str, Any] | None) -> Iterator[Updates]:
        file = Path(str((given or {}).get("path")))
        name = str((given or {}).get("orig_name") or file.name)
        yield {page.drop: None, **_opened(page, *open_source(_take_upload(file), name))}

    def example(load: Callable[[], Example]) -> Iterator[Updates]:
        data, name, question, options = load()
        yield {page.question: question, page.options: "\n".join(options), **_opened(page, *open_source(data, name))}

    def view(source: Source | None, *values: Any) -> Iterator[Updates]:
        if source is not None:
            chosen = Choice(*values).view(source)
            yield _viewed(page, source, chosen, source.show(chosen))

    def own_window(source: Source | None, *values: Any) -> Iterator[Updates]:
        for updates in view(source, *Choice(*values)._replace(window=OWN)):
            # Do not reset the sliders while the reader moves them.
            yield {page.picture: updates[page.picture], page.message: updates[page.message], page.window: OWN}

    # gradio's preprocessing would leave an empty file behind for each upload.
    failed = {page.drop: None}
    page.drop.upload(guarded(upload, page.message, failed), [page.drop], opened, preprocess=False, **_QUIET)
    for button, load in zip(page.examples, EXAMPLES.values(), strict=True):
        button.click(guarded(partial(example, load), page.message), [], opened, **_QUIET)
    for control in page.controls:
        handler = guarded(own_window if control in (page.center, page.width) else view, page.message)
        control.input(handler, [page.source, *page.controls], viewed, trigger_mode="always_last", **_QUIET)


def _take_upload(file: Path) -> bytes:
    """Read and delete an uploaded file."""
    if not is_upload(str(file)):
        raise UserError("This file was not uploaded here. Drop it on the page.")
    try:
        return file.read_bytes()
    except OSError:
        raise UserError("The upload is incomplete. Drop the file again.") from None
    finally:
        file.unlink(missing_ok=True)
        # Each upload has its own folder, which remains if the same file is being uploaded again.
        with suppress(OSError):
            file.parent.rmdir()


def _opened(page: Layout, source: Source, picture: Picture) -> Updates:
    """Return the component updates for a newly opened file."""
    windows = source.windows or ONLY_AUTOMATIC
    return {
        page.source: source,
        page.view: gr.update(visible=bool(source.slices or source.windows or source.frames > 1)),
        page.plane: gr.update(visible=bool(source.slices), value=source.view.plane),
        page.frame: _slider(source.frames, source.view.frame or 0),
        page.window: gr.update(visible=bool(source.windows), choices=[*windows], value=AUTOMATIC),
        **_viewed(page, source, source.view, picture),
    }


def _viewed(page: Layout, source: Source, view: View, picture: Picture) -> Updates:
    """Return the component updates for a view: the slice, plane, frame or window may have changed."""
    return {
        page.picture: _picture_html(source, picture),
        page.slice: _slider(source.slices.get(view.plane or "", 1), view.slice or 0),
        **_window_sliders(page, source, picture.note.window),
        page.message: "",
    }


def _picture_html(source: Source, picture: Picture) -> str:
    """Return the image with its note; warnings are listed separately."""
    summary = replace(picture.note, warnings=()).summary()
    uri = picture_uri(picture.image, _IMAGE_SIDE)
    return render_page("page_image.html", name=source.name, uri=uri, note=picture.note, summary=summary)


def _slider(count: int, value: int) -> Any:
    return gr.update(visible=count > 1, maximum=max(count - 1, 1), value=value)


def _window_sliders(page: Layout, source: Source, window: Window | None) -> Updates:
    """Return the updates of the window sliders. Their ranges include all image values and the current window."""
    if not source.own_window or window is None or window.centre is None or window.width is None:
        return {page.center: gr.update(visible=False), page.width: gr.update(visible=False)}
    low, high = source.values
    span = high - low
    unit = "" if window.unit == "value" else f" ({window.unit})"
    ends = (min(low, window.centre), max(high, window.centre)), (1, max(2 * span, window.width))
    return {
        slider: gr.update(
            visible=True,
            minimum=low,
            maximum=high,
            value=value,
            # Whole numbers, except for images with a small value range.
            step=1 if span >= 100 else 0.1,
            label=f"Window {name}{unit}",
        )
        for slider, name, value, (low, high) in zip(
            (page.center, page.width), ("center", "width"), (window.centre, window.width), ends, strict=True
        )
    }


def wire_answer(page: Layout, medvlm: MedVLM, template: str) -> None:
    """Connect event handlers to the components around the question and the answer: ask, check, history and save."""
    buttons = [page.ask, page.stop, page.check, page.export]
    outputs = [page.answer, page.checks, page.message, *buttons, page.history, page.past, page.current]

    def on_ask(source: Source | None, *values: Any) -> Iterator[Updates]:
        *view, question, options, past, stops = values
        stops.clear()
        query = make_question(source, Choice(*view), question, options, template)
        steps = ask(medvlm, query)
        # The first step refuses an invalid question, before the page is changed.
        first = next(steps)
        # No case can be saved or checked until there is an answer.
        reset = {page.message: "", page.checks: "", page.current: None, page.history: gr.update(value=None)}
        yield {**_busy(page), **reset}
        last = 0.0
        for step in chain([first], steps):
            # gradio closes this generator between two steps, and never if it does not find the time.
            if stops:
                steps.close()
            elif isinstance(step, Entry):
                cases = newest([*past, step])
                yield {**_done(page, cases, len(cases) - 1), page.answer: render_answer(step.case)}
            elif time.monotonic() - last >= _REDRAW_SECONDS:
                yield {page.answer: render_answer(step)}
                last = time.monotonic()

    def on_check(past: Sequence[Entry], current: int | None) -> Iterator[Updates]:
        if current is None:
            return
        yield {**_busy(page), page.message: _progress(0)}
        cases = list(past)
        for done, entry in enumerate(run_checks(medvlm, past[current]), start=1):
            cases[current] = entry
            yield {page.checks: render_checks(entry.case), page.message: _progress(done)}
        yield {**_done(page, cases, current), page.message: ""}

    def on_history(chosen: int | None, past: Sequence[Entry]) -> Iterator[Updates]:
        if chosen is not None:
            case = past[chosen].case
            html = {page.answer: render_answer(case), page.checks: render_checks(case), page.message: ""}
            yield {**html, **_idle(page, case=True), page.current: chosen}

    def on_export(past: Sequence[Entry], current: int | None) -> Iterator[Updates]:
        yield {page.file: "" if current is None else render_case(past[current].case)}

    def on_stop(current: int | None, stops: list[bool]) -> Updates:
        stops.append(True)
        return {**_idle(page, case=current is not None), page.message: _message("Stopped.")}

    current = [page.past, page.current]
    fields = [page.source, *page.controls, page.question, page.options, page.past, page.stops]
    ask_event = page.ask.click(guarded(on_ask, page.message, _idle(page, case=False)), fields, outputs, **_QUIET)
    check_event = page.check.click(guarded(on_check, page.message, _idle(page, case=True)), current, outputs, **_QUIET)
    page.stop.click(on_stop, [page.current, page.stops], outputs, cancels=[ask_event, check_event], **_QUIET)
    page.history.input(guarded(on_history, page.message), [page.history, page.past], outputs, **_QUIET)
    saved = page.export.click(guarded(on_export, page.message), current, [page.file, page.message], **_QUIET)
    saved.then(None, [page.file, page.current], [], js=page_file("save.js"))


def newest(past: Sequence[Entry]) -> list[Entry]:
    """Return the newest entries of a session, within the limits on their number and memory."""
    cases: list[Entry] = []
    sizes: dict[int, int] = {}
    for entry in reversed(past[-_MAX_CASES:]):
        file = entry.question.image
        sizes[id(file)] = file.stat().st_size
        if cases and sum(sizes.values()) > _MAX_BYTES:
            break
        cases.insert(0, entry)
    return cases


def _busy(page: Layout) -> Updates:
    off = gr.update(interactive=False)
    return {page.ask: off, page.check: off, page.export: off, page.stop: gr.update(visible=True)}


def _idle(page: Layout, *, case: bool) -> Updates:
    """Return the component updates for the idle state; `case` is whether there is a case to check and save."""
    on = gr.update(interactive=case)
    return {page.ask: gr.update(interactive=True), page.stop: gr.update(visible=False), page.check: on, page.export: on}


def _done(page: Layout, past: list[Entry], current: int) -> Updates:
    labels = [
        (f"{n}. {entry.case.question} — {entry.case.reply.answer or 'no answer in the required format'}", n - 1)
        for n, entry in enumerate(past, start=1)
    ]
    return {
        **_idle(page, case=True),
        page.past: past,
        page.current: current,
        page.history: gr.update(choices=labels, value=current, visible=True),
    }


def _progress(done: int) -> str:
    return f'<p class="progress" role="status">Consistency checks: {done} of {len(CHECKS)}</p>'
