"""What the reader page shows of an image: the picture with its note, and the controls that fit the file."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gradio as gr
from markupsafe import Markup

from medvlm_r1.data.images import Picture, Window
from medvlm_r1.report.album import picture_uri
from medvlm_r1.serving.page_image import AUTOMATIC, ONLY_AUTOMATIC, Choice, Source
from medvlm_r1.serving.page_layout import Parts
from medvlm_r1.serving.page_message import Updates

_SHOWN_SIDE = 768


def show_opened(parts: Parts, source: Source, picture: Picture) -> Updates:
    """The page after a file was opened."""
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
    """The page after slice, plane, frame or the window's name was changed.

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
    """The picture with what was done to make it; warnings apart."""
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
    """Centre and width in use; their ends hold all values of the picture and the window in use."""
    centre, width = parts.controls.centre, parts.controls.width
    if not source.own_window or window is None or window.centre is None or window.width is None:
        return {centre: gr.update(visible=False), width: gr.update(visible=False)}
    span = source.high - source.low
    unit = "" if window.unit == "value" else f" ({window.unit})"
    # Whole numbers, but for images whose values lie close together.
    step = 1 if span >= 100 else 0.1
    return {
        centre: gr.update(
            visible=True,
            minimum=min(source.low, window.centre),
            maximum=max(source.high, window.centre),
            value=window.centre,
            step=step,
            label=f"Window centre{unit}",
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
