"""The prompt renderer and the response parser: the only places that know the template and the tags."""

from medvlm_r1.dialogue.prompt import TEMPLATES, lettered, messages, render_prompt
from medvlm_r1.dialogue.response import Response, parse_response

__all__ = ["TEMPLATES", "Response", "lettered", "messages", "parse_response", "render_prompt"]
