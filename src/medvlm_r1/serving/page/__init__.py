"""Reader page: an image, a question, an answer and consistency checks.

`mount_page` adds the page to a FastAPI application, behind a security gate. `build_page` builds the page alone.
"""

from __future__ import annotations

import gradio as gr
from fastapi import FastAPI
from starlette.routing import Mount

from medvlm_r1.report.page import template_text
from medvlm_r1.serving.medvlm import MedVLM
from medvlm_r1.serving.page.case import shown_name
from medvlm_r1.serving.page.events import wire_answer, wire_image
from medvlm_r1.serving.page.gate import Gate, private_uploads
from medvlm_r1.serving.page.layout import Layout, page_file, theme

__all__ = ["build_page", "mount_page"]

# Uploads are read into memory and deleted at once. Uploads that are never read are deleted after ten minutes.
_DELETE_CACHE = (60, 600)
MAX_UPLOAD = 256 * 2**20
"""Default maximum size of one file in bytes."""


def build_page(medvlm: MedVLM) -> gr.Blocks:
    """Build the reader page, without the security gate.

    Args:
        medvlm: The model that answers.
    """
    private_uploads()
    page = gr.Blocks(title="MedVLM-R1 reader", analytics_enabled=False, delete_cache=_DELETE_CACHE)
    with page:
        layout = Layout(shown_name(medvlm.name))
        wire_image(layout)
        wire_answer(layout, medvlm)
    return page


def mount_page(app: FastAPI, medvlm: MedVLM, path: str = "/", *, max_upload: int = MAX_UPLOAD) -> FastAPI:
    """Add the reader page to an application, behind the security gate.

    Add all other routes first: a page at "/" handles every remaining path.

    Args:
        app: The application; its middleware controls access.
        medvlm: The model that answers.
        path: Path of the page.
        max_upload: Maximum size of an uploaded file in bytes.

    Returns:
        The same application.
    """
    page = build_page(medvlm)
    gr.mount_gradio_app(
        app,
        page,
        path,
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        show_error=False,
        max_file_size=max_upload,
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=theme(),
        css=template_text("case.css") + page_file("page.css"),
        js=page_file("page.js"),
    )
    # gradio's `launch` sets this. Otherwise gradio accepts any file path in an event.
    page.has_launched = True
    mounted = app.router.routes[-1]
    assert isinstance(mounted, Mount)
    mounted.app = Gate(mounted.app)
    return app
