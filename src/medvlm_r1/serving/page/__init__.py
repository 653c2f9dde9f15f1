"""Reader page: an image, a question, an answer and consistency checks."""

import gradio as gr
from fastapi import FastAPI

from medvlm_r1.report.page import template_text
from medvlm_r1.serving.medvlm import MedVLM
from medvlm_r1.serving.page.case import shown_name
from medvlm_r1.serving.page.events import wire_answer, wire_image
from medvlm_r1.serving.page.gate import Gate, private_uploads
from medvlm_r1.serving.page.layout import Layout, page_file, theme

__all__ = ["build_app"]

# Uploads are read into memory and deleted at once. Uploads that are never read are deleted after ten minutes.
_DELETE_CACHE = (60, 600)


def build_app(
    medvlm: MedVLM,
    *,
    token: str | None = None,
    local: bool = True,
    max_upload: int = 256 * 2**20,
    template: str = "medvlm-r1",
) -> FastAPI:
    """Build the application: the reader page at "/", behind its security gate.

    Args:
        medvlm: The model that answers.
        token: Token required on every route; None if no token is required.
        local: Whether to answer only requests addressed to 127.0.0.1 or localhost. Ignored if there is a token.
        max_upload: Maximum size of an uploaded file in bytes.
        template: Name of the prompt template.
    """
    private_uploads()
    page = gr.Blocks(title="MedVLM-R1 reader", analytics_enabled=False, delete_cache=_DELETE_CACHE)
    with page:
        layout = Layout(shown_name(medvlm.name))
        wire_image(layout)
        wire_answer(layout, medvlm, template)
    app = FastAPI(openapi_url=None)
    app.add_middleware(Gate, token=token, local=local and token is None)
    gr.mount_gradio_app(
        app,
        page,
        "/",
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
    return app
