"""Layout of the reader page; event handlers are elsewhere."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import gradio as gr
from markupsafe import Markup

from medvlm_r1.data.images.picture import PLANES
from medvlm_r1.errors import RESEARCH_USE
from medvlm_r1.serving.page.examples import EXAMPLES
from medvlm_r1.serving.page.image import AUTOMATIC, ONLY_AUTOMATIC

_EMPTY = Markup('<p class="empty">No image yet</p>')
_HINT = Markup('<p class="label">{}</p>')


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewControls:
    """View controls, in the field order of `medvlm_r1.serving.page.image.Choice`."""

    plane: gr.Radio
    slice: gr.Slider
    frame: gr.Slider
    window: gr.Radio
    centre: gr.Slider
    width: gr.Slider

    def all(self) -> list[Any]:
        """Return the controls in field order."""
        return [getattr(self, field.name) for field in fields(self)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """The components that events read or write."""

    drop: gr.File
    examples: tuple[gr.Button, ...]
    picture: gr.HTML
    view: gr.Column
    controls: ViewControls
    question: gr.Textbox
    options: gr.Textbox
    ask: gr.Button
    stop: gr.Button
    message: gr.HTML
    answer: gr.HTML
    look: gr.Button
    export: gr.Button
    looks: gr.HTML
    history: gr.Radio
    source: gr.State
    past: gr.State
    current: gr.State
    file: gr.Textbox


def lay_out(model: str) -> Parts:
    """Create the components of the page.

    Args:
        model: Name of the model, shown next to the notice.
    """
    _html(_head(model), elem_id="notice")
    _html(Markup('<h1 class="title">Ask about an image</h1>'))
    with gr.Row(elem_id="work"):
        with gr.Column(scale=5, min_width=300, elem_id="image-side"):
            _html(_HINT.format("A PNG, JPEG, DICOM or NIfTI file"))
            drop = gr.File(label="Image file", show_label=False, height=110, elem_id="drop", interactive=True)
            _html(_HINT.format("Or an example, with its question"))
            with gr.Row(elem_id="examples"):
                examples = tuple(
                    gr.Button(example.label, size="sm", min_width=0, elem_classes="example") for example in EXAMPLES
                )
            picture = _html(_EMPTY, elem_id="picture")
            with gr.Column(visible=False, elem_id="view") as view:
                controls = _view_controls()
        with gr.Column(scale=6, min_width=300, elem_id="question-side"):
            question = gr.Textbox(label="Question", lines=2, max_lines=6, max_length=4000, elem_id="question")
            options = gr.Textbox(
                label="Options, one per line",
                info="Two to ten. Leave empty for an open question.",
                lines=4,
                max_lines=12,
                max_length=8000,
                elem_id="options",
            )
            with gr.Row(elem_id="do"):
                ask = gr.Button("Ask", variant="primary", elem_id="ask", scale=0, min_width=140)
                stop = gr.Button("Stop", elem_id="stop", scale=0, min_width=100, visible=False)
                _html('<p class="keys"><kbd>Ctrl</kbd> or <kbd>⌘</kbd> with <kbd>Enter</kbd> also asks.</p>')
            message = _html(elem_id="message")
            answer = _html(elem_id="answer")
            with gr.Row(elem_id="more", visible=True):
                look = gr.Button("Second look", elem_id="look", scale=0, min_width=150, interactive=False)
                export = gr.Button("Save case as HTML", elem_id="export", scale=0, min_width=150, interactive=False)
    looks = _html(elem_id="looks")
    history = gr.Radio(
        [], label="Asked in this session", elem_id="history", visible=False, info="Select one to show it again."
    )
    _html(f'<footer id="foot"><p>{RESEARCH_USE} Images and questions are not stored.</p></footer>')
    return Parts(
        drop=drop,
        examples=examples,
        picture=picture,
        view=view,
        controls=controls,
        question=question,
        options=options,
        ask=ask,
        stop=stop,
        message=message,
        answer=answer,
        look=look,
        export=export,
        looks=looks,
        history=history,
        source=gr.State(None),
        past=gr.State([]),
        current=gr.State(None),
        # Transfers the exported file to the browser; never shown.
        file=gr.Textbox(visible=False),
    )


def _html(value: str = "", elem_id: str | None = None) -> gr.HTML:
    """Return an HTML component with the page's own style only."""
    return gr.HTML(value, elem_id=elem_id, apply_default_css=False, js_on_load=None)


def _head(model: str) -> Markup:
    return Markup(
        '<div class="bar" role="note"><strong>{notice}</strong>'
        '<span class="model">Model: <bdi>{model}</bdi></span></div>'
    ).format(notice=RESEARCH_USE, model=model)


def _view_controls() -> ViewControls:
    return ViewControls(
        plane=gr.Radio([(name.capitalize(), name) for name in PLANES], label="Plane", elem_id="plane"),
        slice=gr.Slider(0, 1, 0, step=1, label="Slice", buttons=[], elem_id="slice"),
        frame=gr.Slider(0, 1, 0, step=1, label="Frame", buttons=[], elem_id="frame"),
        # Not a dropdown: gradio's stays open when Tab leaves it.
        window=gr.Radio([*ONLY_AUTOMATIC], value=AUTOMATIC, label="Window", elem_id="window"),
        centre=gr.Slider(0, 1, 0, label="Window center", buttons=[], elem_id="centre"),
        width=gr.Slider(1, 2, 1, label="Window width", buttons=[], elem_id="width"),
    )


_SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Noto Sans", "sans-serif")
_MONO = ("ui-monospace", "SF Mono", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")

# Light and dark, as in report/templates/style.css.
_COLOURS = {
    "body_background_fill": ("#fbfaf7", "#14171b"),
    "body_text_color": ("#1d2228", "#e4e6e9"),
    "body_text_color_subdued": ("#5a636d", "#a0a8b1"),
    "background_fill_primary": ("#ffffff", "#1b1f25"),
    "background_fill_secondary": ("#efede7", "#23282f"),
    "block_background_fill": ("#fbfaf7", "#14171b"),
    "block_border_color": ("#dcd9d2", "#343a42"),
    "block_label_background_fill": ("#fbfaf7", "#14171b"),
    "block_label_text_color": ("#5a636d", "#a0a8b1"),
    "block_title_text_color": ("#1d2228", "#e4e6e9"),
    "block_info_text_color": ("#5a636d", "#a0a8b1"),
    "border_color_primary": ("#dcd9d2", "#343a42"),
    "input_background_fill": ("#ffffff", "#1b1f25"),
    "input_border_color": ("#8b8f94", "#69727c"),
    "input_border_color_focus": ("#24527a", "#8fbde6"),
    "color_accent": ("#24527a", None),
    "slider_color": ("#24527a", "#8fbde6"),
    "button_primary_background_fill": ("#24527a", "#8fbde6"),
    "button_primary_background_fill_hover": ("#1b4062", "#a9cdec"),
    "button_primary_text_color": ("#ffffff", "#14171b"),
    "button_secondary_background_fill": ("#ffffff", "#23282f"),
    "button_secondary_background_fill_hover": ("#efede7", "#343a42"),
    "button_secondary_border_color": ("#8b8f94", "#69727c"),
    "button_secondary_text_color": ("#1d2228", "#e4e6e9"),
    "checkbox_background_color_selected": ("#24527a", "#8fbde6"),
    "checkbox_border_color_selected": ("#24527a", "#8fbde6"),
    "checkbox_label_background_fill_selected": ("#efede7", "#343a42"),
    "checkbox_label_text_color_selected": ("#1d2228", "#e4e6e9"),
}


def theme() -> gr.themes.Base:
    """The theme."""
    values = {}
    for name, (light, dark) in _COLOURS.items():
        values[name] = light
        if dark is not None:
            values[f"{name}_dark"] = dark
    plain = gr.themes.Base(
        primary_hue="slate", neutral_hue="slate", radius_size="sm", font=list(_SANS), font_mono=list(_MONO)
    )
    plain.set(
        **values,
        block_shadow="none",
        button_border_width="1px",
        input_border_width="1px",
        block_border_width="0px",
        block_padding="0px",
        layout_gap="1rem",
    )
    return plain
