"""The reader page in the colours of the reports, with the fonts of the reader's own system: none is loaded."""

from __future__ import annotations

import gradio as gr

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
