"""The text of a completion, in either form that TRL passes to rewards."""

from collections.abc import Iterable, Mapping
from typing import Any

Completion = str | Iterable[Mapping[str, Any]]


def completion_text(completion: Completion) -> str:
    """Text that the assistant wrote in a completion.

    Args:
        completion: A string, or messages `[{"role": "assistant", "content": ...}]`. The content of a message is a
            string, or a list of parts `[{"type": "text", "text": ...}]`.

    Returns:
        The texts of all assistant messages, joined without a separator. Messages of other roles and parts of other
        types are skipped.
    """
    if isinstance(completion, str):
        return completion
    return "".join(_content(m.get("content")) for m in completion if m.get("role", "assistant") == "assistant")


def _content(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "".join(piece["text"] for piece in content or () if piece.get("type") == "text")
