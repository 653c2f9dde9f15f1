"""The reader page: an image, a question, an answer, and how far the answer holds.

`mount_page` puts it on a FastAPI application together with what keeps it safe; `build_page` makes the page alone.
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

# Uploads are read into memory and deleted at once; what is never read goes after ten minutes.
_DELETE_CACHE = (60, 600)
MAX_UPLOAD = 256 * 2**20
"""Bytes of one file, unless `mount_page` is told otherwise."""


def build_page(medvlm: MedVLM) -> gr.Blocks:
    """The page, as `mount_page` puts it up.

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
    """Put the reader page on an application. Call it last: at "/" it takes every address that is not taken yet.

    Args:
        app: The application; who may call it is for its own middleware to say.
        medvlm: The model that answers.
        path: Where the page stands.
        max_upload: Largest file in bytes.

    Returns:
        The same application.
    """
    return mount(app, build_page(medvlm), path, max_upload=max_upload)
