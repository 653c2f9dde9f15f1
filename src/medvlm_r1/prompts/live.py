"""Reasoning and answer of a streamed, unfinished text."""

import re

# The last one may be half written: "</thi" must not flash up as reasoning.
_TAG = re.compile(r"</?(?:think|answer)>", re.IGNORECASE)
_HALF = re.compile(r"</?[a-z]{0,6}$", re.IGNORECASE)


def live_parts(text: str) -> tuple[str, str | None]:
    """Split an unfinished text into the parts to display.

    Args:
        text: The completion up to now.

    Returns:
        The reasoning so far (text outside of all tags counts as reasoning) and the answer so far; None before an answer
        tag is opened. When the text has ended, the result of `parse_response` is final.
    """
    visible = _HALF.sub("", text)
    reasoning, answer, within = "", None, ""
    end = 0
    for tag in _TAG.finditer(visible):
        piece, end = visible[end : tag.start()], tag.end()
        if within == "answer":
            answer = (answer or "") + piece
        else:
            reasoning += piece
        opens = not tag[0].startswith("</")
        within = tag[0].strip("</>").lower() if opens else ""
        if within == "answer" and answer is None:
            answer = ""
    if within == "answer":
        answer = (answer or "") + visible[end:]
    else:
        reasoning += visible[end:]
    return reasoning.strip(), None if answer is None else answer.strip()
