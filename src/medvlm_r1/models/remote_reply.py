"""Parse the replies of servers with OpenAI's chat API, which differ in their formats and in how they report errors."""

import json
from collections.abc import Generator, Iterator, Mapping
from typing import Any

from medvlm_r1.models.generate import Generation
from medvlm_r1.prompts.parser import with_reasoning_opened

_MAX_LENGTH = 300
_TEXT_PARTS = ("text", "output_text")
_REASONING_PARTS = ("thinking", "reasoning")


class BadReply(Exception):
    """A reply without an answer. The message describes what the reply contains.

    Attributes:
        again: Whether repeating the same request may give an answer.
    """

    def __init__(self, message: str, *, again: bool = True) -> None:
        super().__init__(message)
        self.again = again


def read_reply(reply: Mapping[str, Any], *, prefilled: bool = False) -> list[Generation]:
    """The completions in a reply.

    The content is a text or a list of text parts, which are joined. Some servers send the reasoning separately, as
    `reasoning_content`, `reasoning` or a part of the content. It is then put back in `<think>` tags.

    Args:
        reply: The reply.
        prefilled: Whether the completions continue an assistant prefill. If so, no missing `<think>` is added.

    Raises:
        BadReply: The reply has no completions, or a completion has no text.
    """
    excerpt = shorten(json.dumps(reply))
    choices = reply.get("choices")
    if not isinstance(choices, list) or not choices:
        raise BadReply(f"the reply has no choices: {excerpt}")
    used = field(reply.get("usage"), "completion_tokens") if len(choices) == 1 else None
    return [_completion(choice, used, excerpt, prefilled) for choice in choices]


def read_json(body: bytes) -> dict[str, Any]:
    """Parse the body of a reply.

    Raises:
        BadReply: The reply is not a JSON object, or is an error.
    """
    try:
        reply = json.loads(body)
    except (ValueError, RecursionError):
        raise BadReply(f"the reply is not JSON: {shorten(body.decode(errors='replace')) or '(empty)'}") from None
    if not isinstance(reply, dict):
        raise BadReply(f"the reply is not a JSON object: {shorten(json.dumps(reply))}")
    raise_error(reply)
    return reply


def _completion(choice: Any, used: Any, excerpt: str, prefilled: bool) -> Generation:
    message = field(choice, "message")
    if not isinstance(message, dict):
        raise BadReply(f"the reply has no message: {excerpt}")
    reason = finish(choice)
    reasoning, text = texts(message)
    if text is None and reasoning is None and reason != "length":
        if message.get("tool_calls") or message.get("function_call"):
            raise BadReply(f"the model called a tool instead of answering: {excerpt}", again=False)
        raise BadReply(f"the reply has no text (content is null): {excerpt}")
    completion = text or ""
    if reasoning and not completion.lstrip().startswith("<think>"):
        # Truncated reasoning has no end tag.
        completion = f"<think>{reasoning}" + (f"</think>{completion}" if completion or reason != "length" else "")
    if not prefilled:
        completion = with_reasoning_opened(completion)
    ids = field(choice, "token_ids")
    used = len(ids) if isinstance(ids, list) else used
    if not isinstance(used, int) or isinstance(used, bool) or used < 0:
        n_tokens = len(completion.split())
    else:
        # Servers include the end token in their count.
        n_tokens = max(0, used - (reason == "stop"))
    return Generation(text=completion, n_tokens=n_tokens, truncated=reason == "length")


def read_prompt_use(reply: Mapping[str, Any]) -> tuple[int | None, bool]:
    """The number of prompt tokens (None if not reported), and whether the server sent the reasoning separately.

    Raises:
        BadReply: The reply is not a chat completion.
    """
    read_reply(reply, prefilled=True)
    separate = any(texts(choice["message"])[0] for choice in reply["choices"])
    tokens = field(reply.get("usage"), "prompt_tokens")
    return (tokens if isinstance(tokens, int) else None), separate


def read_logprobs(reply: Mapping[str, Any]) -> dict[str, float]:
    """Log-probabilities of the first token's candidates, keyed by text or `token_id:N`; empty if not sent."""
    try:
        first = reply["choices"][0]["logprobs"]["content"][0]
        return {entry["token"]: float(entry["logprob"]) for entry in [first, *first["top_logprobs"]]}
    except (KeyError, IndexError, TypeError, ValueError):
        return {}


def raise_error(reply: Any) -> None:
    """Raise an exception if a reply with status 200 is an error.

    Raises:
        BadReply: The reply is an error.
    """
    error = field(reply, "error")
    if error:
        message = field(error, "message") or error
        raise BadReply(
            f"the reply is an error: {shorten(message if isinstance(message, str) else json.dumps(message))}"
        )


def finish(choice: Any) -> str | None:
    """The reason why the completion ended (`finish_reason`); None if the server gives none.

    Raises:
        BadReply: The server's content filter withheld the answer, or the server ended it with an error.
    """
    reason = field(choice, "finish_reason")
    if reason == "content_filter":
        raise BadReply("the server's content filter withheld the answer", again=False)
    if reason == "error":
        raise BadReply("the server ended the answer with an error")
    return reason if isinstance(reason, str) else None


def texts(message: Any) -> tuple[str | None, str | None]:
    """Reasoning and text of a message or of a streamed delta; each is None if it is missing.

    Raises:
        BadReply: The content is not text.
    """
    content = field(message, "content")
    name = "reasoning_content" if field(message, "reasoning_content") else "reasoning"
    reasoning = _contents(field(message, name), name)[1] if field(message, name) else []
    thoughts, text = ([], []) if content is None else _contents(content, "content")
    reasoning += thoughts
    refusal = field(message, "refusal")
    if not text and isinstance(refusal, str) and refusal:
        text = [refusal]
    return "".join(reasoning) if reasoning else None, "".join(text) if text or content is not None else None


def _contents(content: Any, name: str) -> tuple[list[str], list[str]]:
    """Reasoning and text in a field of a message, which holds a text or a list of parts."""
    reasoning: list[str] = []
    text: list[str] = []
    for piece in content if isinstance(content, list) else [content]:
        kind = field(piece, "type")
        if isinstance(piece, str):
            text.append(piece)
        elif isinstance(content, list) and kind in _TEXT_PARTS and isinstance(field(piece, "text"), str):
            text.append(field(piece, "text"))
        elif isinstance(content, list) and kind in _REASONING_PARTS:
            thought = field(piece, kind) or field(piece, "text") or field(piece, "summary")
            reasoning.extend(_contents(thought, str(kind))[1])
        else:
            what = f"a part of type {kind!r}" if isinstance(kind, str) else f"a value of type {type(piece).__name__}"
            raise BadReply(f"the reply's {name} holds {what}; wanted text", again=False)
    return reasoning, text


def read_pieces(chunks: Any, pieces: list[str]) -> Generator[str, None, str | None]:
    """Yield the text pieces of a stream and append them to `pieces`; return the reason why the completion ended.

    Raises:
        BadReply: A chunk is an error, the stream is interrupted, or no chunk has OpenAI's format.
    """
    reason, thinking, empty = None, False, True
    for chunk in _chunks(chunks):
        choices = field(chunk, "choices")
        for choice in choices if isinstance(choices, list) else ():
            empty = False
            reason = finish(choice) or reason
            reasoning, text = texts(field(choice, "delta"))
            piece = text or ""
            if reasoning:
                piece, thinking = ("" if thinking else "<think>") + reasoning, True
            elif thinking and piece:
                piece, thinking = f"</think>{piece}", False
            if piece:
                pieces.append(piece)
                yield piece
    if empty:
        raise BadReply("the reply is not a stream of chat completions")
    return reason


def _chunks(chunks: Any) -> Iterator[Any]:
    from openai import OpenAIError

    try:
        for chunk in chunks:
            raise_error(chunk)
            yield chunk
    except (OpenAIError, BadReply):
        raise
    # The client does not convert errors of its HTTP library, whose classes depend on the version.
    except Exception as error:
        raise BadReply(f"the stream broke off ({type(error).__name__}: {shorten(str(error))})") from error


def field(value: Any, name: str) -> Any:
    """A field of a JSON object, or an attribute of a client object; None if it does not exist."""
    return value.get(name) if isinstance(value, dict) else getattr(value, name, None)


def shorten(text: str) -> str:
    """Put a server's text on one line, without control characters, and cut it to a length that fits a message."""
    line = "".join(character if character.isprintable() else " " for character in text[: 20 * _MAX_LENGTH])
    line = " ".join(line.split())
    return line if len(line) <= _MAX_LENGTH else f"{line[:_MAX_LENGTH]} ..."
