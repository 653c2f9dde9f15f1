"""What happens on the reader page when a file is dropped, an example chosen, or slice and window are moved."""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from medvlm_r1.errors import UserError
from medvlm_r1.serving.page_examples import EXAMPLES
from medvlm_r1.serving.page_image import OWN, Choice, Source, open_source
from medvlm_r1.serving.page_layout import Parts
from medvlm_r1.serving.page_message import Updates, guarded
from medvlm_r1.serving.page_mount import is_upload
from medvlm_r1.serving.page_show import show_opened, show_view

QUIET: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": 8, "api_visibility": "private"}
"""Arguments of every event: nothing covers the page while it runs, and it is no endpoint for programs."""


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
        # The sliders are in the reader's hand and are not set back under it.
        kept = {part: update for part, update in updates.items() if part in (parts.picture, parts.message)}
        return {**kept, parts.controls.window: OWN}

    arrived = guarded(upload, parts.message, also={parts.drop: None})
    # Not preprocessed: gradio would leave an empty file behind for each.
    parts.drop.upload(arrived, [parts.drop], opened, preprocess=False, **QUIET)
    for place, button in enumerate(parts.examples):
        button.click(guarded(partial(example, place), parts.message), [], opened, **QUIET)
    for control in controls:
        change = own_window if control in (parts.controls.centre, parts.controls.width) else view
        control.input(
            guarded(change, parts.message), [parts.source, *controls], shown, trigger_mode="always_last", **QUIET
        )


def _taken(file: Path) -> bytes:
    """Content of an uploaded file, which is deleted."""
    if not is_upload(str(file)):
        raise UserError("That file was not uploaded here. Drop it on the page.")
    try:
        return file.read_bytes()
    except OSError:
        raise UserError("The upload did not arrive whole. Drop the file again.") from None
    finally:
        file.unlink(missing_ok=True)
        # Each has a folder of its own; it stays if the same file is just being uploaded again.
        with suppress(OSError):
            file.parent.rmdir()
