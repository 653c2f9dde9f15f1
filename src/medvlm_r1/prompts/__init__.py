"""Prompt templates and the response parser."""

from medvlm_r1.prompts.parser import Response, parse_response
from medvlm_r1.prompts.templates import TEMPLATES, lettered, messages, render_prompt

__all__ = ["TEMPLATES", "Response", "lettered", "messages", "parse_response", "render_prompt"]
