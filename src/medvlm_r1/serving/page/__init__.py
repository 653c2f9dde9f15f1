"""Reader page: an image, a question, an answer and consistency checks.

`mount_page` adds it to a FastAPI application behind a security gate. `build_page` builds the page alone.
"""

from __future__ import annotations

import gradio as gr
from fastapi import FastAPI

from medvlm_r1.serving.medvlm import MedVLM
from medvlm_r1.serving.page.answer_events import wire_answer
from medvlm_r1.serving.page.case import shown_name
from medvlm_r1.serving.page.image_events import wire_image
from medvlm_r1.serving.page.layout import lay_out
from medvlm_r1.serving.page.mount import mount, private_uploads

__all__ = ["build_page", "mount_page"]

# Uploads are read into memory and deleted at once. Uploads that are never read are deleted after ten minutes.
_DELETE_CACHE = (60, 600)
MAX_UPLOAD = 256 * 2**20
"""Default maximum size of one file in bytes."""


def build_page(medvlm: MedVLM) -> gr.Blocks:
    """Build the page.

    Args:
        medvlm: The model that answers.
    """
    private_uploads()
    page = gr.Blocks(title="MedVLM-R1 reader", analytics_enabled=False, delete_cache=_DELETE_CACHE)
    with page:
        parts = lay_out(shown_name(medvlm.name))
        wire_image(parts)
        wire_answer(parts, medvlm)
    return page


def mount_page(app: FastAPI, medvlm: MedVLM, path: str = "/", *, max_upload: int = MAX_UPLOAD) -> FastAPI:
    """Add the reader page to an application. Call it last: at "/" it handles every remaining path.

    Args:
        app: The application; its middleware controls access.
        medvlm: The model that answers.
        path: Path of the page.
        max_upload: Largest file in bytes.

    Returns:
        The same application.
    """
    return mount(app, build_page(medvlm), path, max_upload=max_upload)
