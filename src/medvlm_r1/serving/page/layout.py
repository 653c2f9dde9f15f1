"""Layout, theme and examples of the reader page. Its event handlers are in `medvlm_r1.serving.page.events`.

The examples are PhantomVQA images and pydicom's sample files. Nothing is downloaded.
"""

import io
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import gradio as gr
from markupsafe import Markup

from medvlm_r1.data.images.picture import PLANES
from medvlm_r1.errors import RESEARCH_USE, UserError
from medvlm_r1.serving.page.image import AUTOMATIC, ONLY_AUTOMATIC


class Example(NamedTuple):
    """Content and name of an image file, and a question about it."""

    data: bytes
    name: str
    question: str
    options: tuple[str, ...]


def _phantom(modality: str) -> Example:
    import numpy as np
    from PIL import Image

    from medvlm_r1.phantom.questions import ask
    from medvlm_r1.phantom.scene import render

    # This subject is in no benchmark split: their seeds begin with 1, 2 or 3.
    seed = (0, len(modality))
    question = ask(modality, seed, np.random.default_rng(seed))
    stream = io.BytesIO()
    Image.fromarray(render(question.scene)).save(stream, "PNG")
    return Example(stream.getvalue(), f"phantom-{modality.lower()}.png", question.text, question.options)


def _pydicom(file: str, question: str, options: tuple[str, ...]) -> Example:
    from pydicom.data import get_testdata_file

    path = get_testdata_file(file, download=False)
    if path is None:
        raise UserError(f"{file} is not among the installed files of pydicom; choose another example.")
    return Example(Path(str(path)).read_bytes(), file, question, options)


_MODALITY = ("Which imaging modality is this?", ("MRI", "CT", "X-ray", "ultrasound"))
_BODY_PART = ("Which part of the body is shown in this image?", ("head", "chest", "abdomen", "knee"))
EXAMPLES: dict[str, Callable[[], Example]] = {
    "Phantom MRI": partial(_phantom, "MRI"),
    "Phantom CT": partial(_phantom, "CT"),
    "Phantom X-ray": partial(_phantom, "X-ray"),
    "CT (DICOM)": partial(_pydicom, "CT_small.dcm", *_MODALITY),
    "MRI (DICOM)": partial(_pydicom, "MR_small.dcm", *_BODY_PART),
    "Ultrasound, 30 frames": partial(_pydicom, "examples_ybr_color.dcm", *_MODALITY),
}
"""Functions that load the examples, by the label of their button. A missing sample file is a `UserError`."""


_HINT = Markup('<p class="label">{}</p>')
_NOTICE = Markup(
    '<div class="bar" role="note"><strong>{}</strong><span class="model">Model: <bdi>{}</bdi></span></div>'
)


class Layout:
    """The components of the page, created in page order inside a `gr.Blocks`.

    Args:
        model: Name of the model, shown next to the research-use notice.
    """

    def __init__(self, model: str) -> None:
        _html(_NOTICE.format(RESEARCH_USE, model), "notice")
        _html('<h1 class="title">Ask about an image</h1>')
        with gr.Row(elem_id="work"):
            with gr.Column(scale=5, min_width=300, elem_id="image-side"):
                self._image_side()
            with gr.Column(scale=6, min_width=300, elem_id="question-side"):
                self._question_side()
        self.checks = _html(elem_id="checks")
        self.history = gr.Radio(
            [], label="Asked in this session", elem_id="history", visible=False, info="Select one to show it again."
        )
        _html(f'<footer id="foot"><p>{RESEARCH_USE} Images and questions are not stored.</p></footer>')
        self.source, self.past, self.current = gr.State(None), gr.State([]), gr.State(None)
        # Filled by the button "Stop" while an answer is generated.
        self.stops = gr.State([])
        # Transfers the exported file to the browser; never shown.
        self.file = gr.Textbox(visible=False)

    @property
    def controls(self) -> list[Any]:
        """The view controls, in the field order of `medvlm_r1.serving.page.image.Choice`."""
        return [self.plane, self.slice, self.frame, self.window, self.center, self.width]

    def _image_side(self) -> None:
        _html(_HINT.format("A PNG, JPEG, DICOM or NIfTI file"))
        self.drop = gr.File(label="Image file", show_label=False, height=110, elem_id="drop", interactive=True)
        _html(_HINT.format("Or an example, with its question"))
        with gr.Row(elem_id="examples"):
            self.examples = [gr.Button(label, size="sm", min_width=0, elem_classes="example") for label in EXAMPLES]
        self.picture = _html('<p class="empty">No image yet</p>', "picture")
        with gr.Column(visible=False, elem_id="view") as self.view:
            self.plane = gr.Radio([(name.capitalize(), name) for name in PLANES], label="Plane", elem_id="plane")
            self.slice = gr.Slider(0, 1, 0, step=1, label="Slice", buttons=[], elem_id="slice")
            self.frame = gr.Slider(0, 1, 0, step=1, label="Frame", buttons=[], elem_id="frame")
            # Not a dropdown, because gradio's dropdown stays open when Tab moves the focus away.
            self.window = gr.Radio([*ONLY_AUTOMATIC], value=AUTOMATIC, label="Window", elem_id="window")
            self.center = gr.Slider(0, 1, 0, label="Window center", buttons=[], elem_id="center")
            self.width = gr.Slider(1, 2, 1, label="Window width", buttons=[], elem_id="width")

    def _question_side(self) -> None:
        self.question = gr.Textbox(label="Question", lines=2, max_lines=6, max_length=4000, elem_id="question")
        self.options = gr.Textbox(
            label="Options, one per line",
            info="Two to ten. Leave empty for an open question.",
            lines=4,
            max_lines=12,
            max_length=8000,
            elem_id="options",
        )
        with gr.Row(elem_id="do"):
            self.ask = gr.Button("Ask", variant="primary", elem_id="ask", scale=0, min_width=140)
            self.stop = gr.Button("Stop", elem_id="stop", scale=0, min_width=100, visible=False)
            _html('<p class="keys"><kbd>Ctrl</kbd> or <kbd>⌘</kbd> with <kbd>Enter</kbd> also asks.</p>')
        self.message = _html(elem_id="message")
        self.answer = _html(elem_id="answer")
        with gr.Row(elem_id="more", visible=True):
            self.check = gr.Button("Consistency checks", elem_id="check", scale=0, min_width=150, interactive=False)
            self.export = gr.Button("Save case as HTML", elem_id="export", scale=0, min_width=150, interactive=False)


def _html(value: str = "", elem_id: str | None = None) -> gr.HTML:
    """Return an HTML component without gradio's default style."""
    return gr.HTML(value, elem_id=elem_id, apply_default_css=False, js_on_load=None)


_SANS = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Noto Sans", "sans-serif")
_MONO = ("ui-monospace", "SF Mono", "Menlo", "Consolas", "DejaVu Sans Mono", "monospace")


def theme() -> gr.themes.Base:
    """The gradio theme. Its light and dark colors, in `theme.json`, match those of `report/templates/style.css`."""
    plain = gr.themes.Base(
        primary_hue="slate", neutral_hue="slate", radius_size="sm", font=list(_SANS), font_mono=list(_MONO)
    )
    plain.set(**json.loads(page_file("theme.json")))
    return plain


def page_file(name: str) -> str:
    """Return the text of a file next to this module."""
    return Path(__file__).with_name(name).read_text(encoding="utf-8")
