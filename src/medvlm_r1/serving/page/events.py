"""Event handlers of the reader page."""

from __future__ import annotations

import inspect
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from markupsafe import Markup

from medvlm_r1.data.images import Picture, Window
from medvlm_r1.errors import UserError
from medvlm_r1.report.album import picture_uri
from medvlm_r1.report.case import render_answer, render_case, render_checks
from medvlm_r1.serving.medvlm import MedVLM
from medvlm_r1.serving.page.case import Entry, ask, make_question
from medvlm_r1.serving.page.checks import TITLES, run_checks
from medvlm_r1.serving.page.examples import EXAMPLES
from medvlm_r1.serving.page.gate import is_upload
from medvlm_r1.serving.page.image import AUTOMATIC, ONLY_AUTOMATIC, OWN, Choice, Source, open_source
from medvlm_r1.serving.page.layout import Layout, page_file

Updates = dict[Any, Any]

_QUIET: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": 8, "api_visibility": "private"}
"""Arguments of every event: no progress overlay and no public API endpoint."""
_IMAGE_SIDE = 768
_REDRAW_SECONDS = 0.08
_MAX_CASES = 50
_MAX_BYTES = 2**29

_log = logging.getLogger(__name__)


def guarded(handler: Callable[..., Any], box: Any, also: Updates | None = None) -> Callable[..., Any]:
    """Wrap an event handler so that it shows errors instead of raising them.

    Args:
        handler: Returns or yields component updates.
        box: The component that shows the message.
        also: Additional updates to make on an error.

    Returns:
        A function, or a generator function if `handler` is one.
    """

    def report(error: Exception) -> Updates:
        text = str(error)
        if not isinstance(error, UserError):
            # Log only the type: the text may quote the question or the file name.
            _log.error("Internal error on the reader page (%s).", type(error).__name__)
            text = f"Internal error ({type(error).__name__}). Try again, or reload the page."
        return {box: _message(text), **(also or {})}

    def stream(*values: Any) -> Iterator[Updates]:
        try:
            yield from handler(*values)
        except Exception as error:
            yield report(error)

    def once(*values: Any) -> Updates:
        try:
            return handler(*values)  # type: ignore[no-any-return]
        except Exception as error:
            return report(error)

    return stream if inspect.isgeneratorfunction(handler) else once


def _message(text: str) -> Markup:
    """Return a message as HTML, announced by screen readers."""
    return Markup('<p class="message" role="alert">{}</p>').format(text)


def wire_image(page: Layout) -> None:
    """Connect event handlers to the components around the image: upload, examples and view controls."""
    changed = [page.picture, *page.controls, page.message]
    opened = [page.source, page.drop, page.view, page.question, page.options, *changed]

    def upload(given: dict[str, Any] | None) -> Updates:
        file = Path(str((given or {}).get("path")))
        name = str((given or {}).get("orig_name") or file.name)
        return {page.drop: None, **_opened(page, *open_source(_take_upload(file), name))}

    def example(index: int) -> Updates:
        loaded = EXAMPLES[index].load()
        fields = {page.question: loaded.question, page.options: "\n".join(loaded.options)}
        return {**fields, **_opened(page, *open_source(loaded.data, loaded.name))}

    def view(source: Source | None, *values: Any) -> Updates:
        return {} if source is None else _viewed(page, source, Choice(*values))

    def own_window(source: Source | None, *values: Any) -> Updates:
        choice = Choice(*values)._replace(window=OWN)
        updates = view(source, *choice)
        # Do not reset the sliders while the reader moves them.
        fixed = {part: update for part, update in updates.items() if part in (page.picture, page.message)}
        return {**fixed, page.window: OWN}

    # gradio's preprocessing would leave an empty file behind for each upload.
    page.drop.upload(
        guarded(upload, page.message, also={page.drop: None}), [page.drop], opened, preprocess=False, **_QUIET
    )
    for index, button in enumerate(page.examples):
        button.click(guarded(partial(example, index), page.message), [], opened, **_QUIET)
    for control in page.controls:
        handler = guarded(own_window if control in (page.center, page.width) else view, page.message)
        control.input(handler, [page.source, *page.controls], changed, trigger_mode="always_last", **_QUIET)


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
    plane = source.view.plane or ""
    windows = source.windows or ONLY_AUTOMATIC
    return {
        page.source: source,
        page.picture: _picture_html(source, picture),
        page.view: gr.update(visible=bool(source.slices or source.windows or source.frames > 1)),
        page.plane: gr.update(visible=bool(source.slices), value=plane or None),
        page.slice: _slider(source.slices.get(plane, 1), source.view.slice or 0),
        page.frame: _slider(source.frames, source.view.frame or 0),
        page.window: gr.update(visible=bool(source.windows), choices=[*windows], value=AUTOMATIC),
        **_window_sliders(page, source, picture.note.window),
        page.message: "",
    }


def _viewed(page: Layout, source: Source, choice: Choice) -> Updates:
    """Return the component updates after the slice, plane, frame or window has changed."""
    view = choice.view(source)
    picture = source.show(view)
    updates: Updates = {
        page.picture: _picture_html(source, picture),
        **_window_sliders(page, source, picture.note.window),
        page.message: "",
    }
    if source.slices:
        updates[page.slice] = _slider(source.slices[view.plane or ""], view.slice or 0)
    return updates


def _picture_html(source: Source, picture: Picture) -> str:
    """Return the image with its note; warnings are listed separately."""
    note = picture.note
    warnings = Markup("").join(Markup("<li>{}</li>").format(warning) for warning in note.warnings)
    return Markup(
        '<figure><img src="{uri}" alt="{name}: {summary}" style="aspect-ratio: {width} / {height}">'
        '<figcaption><bdi class="name">{name}</bdi><span id="in-use">{summary}</span>{warnings}</figcaption></figure>'
    ).format(
        uri=picture_uri(picture.image, _IMAGE_SIDE),
        name=source.name,
        summary=replace(note, warnings=()).summary(),
        width=note.size[0],
        height=note.size[1],
        warnings=Markup("<ul>{}</ul>").format(warnings) if warnings else "",
    )


def _slider(count: int, value: int) -> Any:
    return gr.update(visible=count > 1, maximum=max(count - 1, 1), value=value)


def _window_sliders(page: Layout, source: Source, window: Window | None) -> Updates:
    """Return the updates of the window sliders. Their ranges include all image values and the current window."""
    if not source.own_window or window is None or window.centre is None or window.width is None:
        return {page.center: gr.update(visible=False), page.width: gr.update(visible=False)}
    span = source.high - source.low
    unit = "" if window.unit == "value" else f" ({window.unit})"
    ends = (min(source.low, window.centre), max(source.high, window.centre)), (1, max(2 * span, window.width))
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


def wire_answer(page: Layout, medvlm: MedVLM) -> None:
    """Connect event handlers to the components around the question and the answer: ask, check, history and save."""
    outputs = [page.answer, page.checks, page.message, page.ask, page.stop, page.check, page.export]
    session = [page.history, page.past, page.current]

    def on_ask(source: Source | None, *values: Any) -> Iterator[Updates]:
        *view, question, options, past = values
        query = make_question(source, Choice(*view), question, options)
        assert source is not None
        # No case can be saved or checked until there is an answer.
        reset = {page.message: "", page.checks: "", page.current: None, page.history: gr.update(value=None)}
        yield {**_busy(page), **reset}
        last = 0.0
        for step in ask(medvlm, source, query):
            if isinstance(step, Entry):
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

    def on_history(chosen: int | None, past: Sequence[Entry]) -> Updates:
        if chosen is None:
            return {}
        case = past[chosen].case
        html = {page.answer: render_answer(case), page.checks: render_checks(case), page.message: ""}
        return {**html, **_idle(page, case=True), page.current: chosen}

    def on_export(past: Sequence[Entry], current: int | None) -> Updates:
        return {page.file: "" if current is None else render_case(past[current].case)}

    def on_stop(current: int | None) -> Updates:
        return {**_idle(page, case=current is not None), page.message: _message("Stopped.")}

    ask_event = page.ask.click(
        guarded(on_ask, page.message, also=_idle(page, case=False)),
        [page.source, *page.controls, page.question, page.options, page.past],
        [*outputs, *session],
        **_QUIET,
    )
    check_event = page.check.click(
        guarded(on_check, page.message, also=_idle(page, case=True)),
        [page.past, page.current],
        [*outputs, *session],
        **_QUIET,
    )
    page.stop.click(on_stop, [page.current], outputs, cancels=[ask_event, check_event], **_QUIET)
    page.history.input(guarded(on_history, page.message), [page.history, page.past], [*outputs, page.current], **_QUIET)
    saved = page.export.click(
        guarded(on_export, page.message), [page.past, page.current], [page.file, page.message], **_QUIET
    )
    saved.then(None, [page.file, page.current], [], js=page_file("save.js"))


def newest(past: Sequence[Entry]) -> list[Entry]:
    """Return the newest entries of a session, within the limits on their number and memory."""
    cases: list[Entry] = []
    files: dict[int, int] = {}
    for entry in reversed(past[-_MAX_CASES:]):
        files[id(entry.source.file)] = entry.source.file.stat().st_size
        if cases and sum(files.values()) > _MAX_BYTES:
            break
        cases.insert(0, entry)
    return cases


def _busy(page: Layout) -> Updates:
    off = gr.update(interactive=False)
    return {page.ask: off, page.check: off, page.export: off, page.stop: gr.update(visible=True)}


def _idle(page: Layout, *, case: bool) -> Updates:
    """Return the component updates for the idle state; `case` is whether there is a case to check and save."""
    on = gr.update(interactive=case)
    return {
        page.ask: gr.update(interactive=True),
        page.stop: gr.update(visible=False),
        page.check: on,
        page.export: on,
    }


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
    return f'<p class="progress" role="status">Consistency checks: {done} of {len(TITLES)}</p>'
