"""Event handlers of the reader page: upload, examples and view controls."""

from __future__ import annotations

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
from medvlm_r1.serving.page.examples import EXAMPLES
from medvlm_r1.serving.page.image import AUTOMATIC, ONLY_AUTOMATIC, OWN, Choice, Source, open_source
from medvlm_r1.serving.page.layout import Parts
from medvlm_r1.serving.page.message import Updates, guarded
from medvlm_r1.serving.page.mount import is_upload

QUIET: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": 8, "api_visibility": "private"}
"""Arguments of every event: no progress overlay and no public API endpoint."""


def wire_image(parts: Parts) -> None:
    """Connect the components around the image."""
    controls = parts.controls.all()
    opened = [
        parts.source,
        parts.drop,
        parts.picture,
        parts.view,
        *controls,
        parts.question,
        parts.options,
        parts.message,
    ]
    shown = [parts.picture, *controls, parts.message]

    def upload(given: dict[str, Any] | None) -> Updates:
        file = Path(str((given or {}).get("path")))
        name = str((given or {}).get("orig_name") or file.name)
        return {parts.drop: None, **show_opened(parts, *open_source(_taken(file), name))}

    def example(place: int) -> Updates:
        loaded = EXAMPLES[place].load()
        fields = {parts.question: loaded.question, parts.options: "\n".join(loaded.options)}
        return {**fields, **show_opened(parts, *open_source(loaded.data, loaded.name))}

    def view(source: Source | None, *values: Any) -> Updates:
        return {} if source is None else show_view(parts, source, Choice.of(values))

    def own_window(source: Source | None, *values: Any) -> Updates:
        plane, number, frame, _, centre, width = values
        updates = view(source, plane, number, frame, OWN, centre, width)
        # Do not reset the sliders while the reader moves them.
        kept = {part: update for part, update in updates.items() if part in (parts.picture, parts.message)}
        return {**kept, parts.controls.window: OWN}

    arrived = guarded(upload, parts.message, also={parts.drop: None})
    # Preprocessing would leave an empty file behind for each upload.
    parts.drop.upload(arrived, [parts.drop], opened, preprocess=False, **QUIET)
    for place, button in enumerate(parts.examples):
        button.click(guarded(partial(example, place), parts.message), [], opened, **QUIET)
    for control in controls:
        change = own_window if control in (parts.controls.centre, parts.controls.width) else view
        control.input(
            guarded(change, parts.message), [parts.source, *controls], shown, trigger_mode="always_last", **QUIET
        )


def _taken(file: Path) -> bytes:
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


_SHOWN_SIDE = 768


def show_opened(parts: Parts, source: Source, picture: Picture) -> Updates:
    """Return the updates after a file was opened."""
    controls, view = parts.controls, source.view
    plane = view.plane or ""
    return {
        parts.source: source,
        parts.picture: picture_html(source, picture),
        parts.view: gr.update(visible=bool(source.slices or source.windows or source.frames > 1)),
        controls.plane: gr.update(visible=bool(source.slices), value=plane or None),
        controls.slice: _slider(source.slices.get(plane, 1), view.slice or 0),
        controls.frame: _slider(source.frames, view.frame or 0),
        controls.window: gr.update(
            visible=bool(source.windows), choices=[*(source.windows or ONLY_AUTOMATIC)], value=AUTOMATIC
        ),
        **_window_sliders(parts, source, picture.note.window),
        parts.message: "",
    }


def show_view(parts: Parts, source: Source, choice: Choice) -> Updates:
    """Return the updates after slice, plane, frame or window changed.

    Raises:
        UserError: The view cannot be shown.
    """
    view = choice.view(source)
    picture = source.show(view)
    updates: Updates = {
        parts.picture: picture_html(source, picture),
        **_window_sliders(parts, source, picture.note.window),
        parts.message: "",
    }
    if source.slices:
        updates[parts.controls.slice] = _slider(source.slices[view.plane or ""], view.slice or 0)
    return updates


def picture_html(source: Source, picture: Picture) -> str:
    """Return the image with its note; warnings are listed separately."""
    note = picture.note
    warnings = Markup("").join(Markup("<li>{}</li>").format(warning) for warning in note.warnings)
    return Markup(
        '<figure><img src="{uri}" alt="{name}: {summary}" style="aspect-ratio: {width} / {height}">'
        '<figcaption><bdi class="name">{name}</bdi><span id="in-use">{summary}</span>{warnings}</figcaption></figure>'
    ).format(
        uri=picture_uri(picture.image, _SHOWN_SIDE),
        name=source.name,
        summary=replace(note, warnings=()).summary(),
        width=note.size[0],
        height=note.size[1],
        warnings=Markup("<ul>{}</ul>").format(warnings) if warnings else "",
    )


def _slider(count: int, place: int) -> Any:
    return gr.update(visible=count > 1, maximum=max(count - 1, 1), value=place)


def _window_sliders(parts: Parts, source: Source, window: Window | None) -> Updates:
    """Return slider updates; the ranges include all image values and the current window."""
    centre, width = parts.controls.centre, parts.controls.width
    if not source.own_window or window is None or window.centre is None or window.width is None:
        return {centre: gr.update(visible=False), width: gr.update(visible=False)}
    span = source.high - source.low
    unit = "" if window.unit == "value" else f" ({window.unit})"
    # Whole numbers, except for images with a small value range.
    step = 1 if span >= 100 else 0.1
    return {
        centre: gr.update(
            visible=True,
            minimum=min(source.low, window.centre),
            maximum=max(source.high, window.centre),
            value=window.centre,
            step=step,
            label=f"Window center{unit}",
        ),
        width: gr.update(
            visible=True,
            minimum=1,
            maximum=max(2 * span, window.width),
            value=window.width,
            step=step,
            label=f"Window width{unit}",
        ),
    }
