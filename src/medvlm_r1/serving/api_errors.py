"""Errors in OpenAI's shape, so that its clients raise what they raise for OpenAI."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from jinja2 import TemplateError
from starlette.exceptions import HTTPException
from starlette.requests import Request

from medvlm_r1.errors import UserError
from medvlm_r1.serving.engine import Busy, Closed


class ApiError(Exception):
    """An answer other than success.

    Attributes:
        status: HTTP status.
        message: For a person.
        param: Which field of the request is at fault.
        code: For a program.
        headers: Further headers.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The body in OpenAI's shape."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        if self.status == 429:
            kind = "rate_limit_error"
        # A request may hold half characters (lone surrogates), which no answer can carry.
        message = self.message.encode(errors="backslashreplace").decode()
        return {"error": {"message": message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        """The whole answer."""
        return JSONResponse(self.body(), self.status, self.headers)


def too_large(message: str, param: str | None = None) -> ApiError:
    """413."""
    return ApiError(413, message, param=param, code="request_too_large")


def from_exception(error: Exception) -> ApiError:
    """What an exception of the model's side means to a client."""
    match error:
        case ApiError():
            return error
        case Busy():
            return ApiError(429, str(error), code="queue_full", headers={"Retry-After": str(error.seconds)})
        case Closed():
            return ApiError(503, str(error), code="closing")
        case UserError():
            return ApiError(400, str(error))
        # The processor's and the chat template's way to refuse: an image of one pixel by a thousand, roles that do not
        # alternate.
        case ValueError() | TemplateError():
            return ApiError(400, f"The model's processor refuses this conversation: {error}")
    return ApiError(500, f"The model failed ({type(error).__name__}).")


async def on_api_error(_: Request, error: Exception) -> JSONResponse:
    """Handler of `ApiError`."""
    assert isinstance(error, ApiError)
    return error.response()


async def on_http_error(_: Request, error: Exception) -> JSONResponse:
    """Handler of the framework's own errors: no such address, wrong method, a body that is not JSON."""
    assert isinstance(error, HTTPException)
    return ApiError(error.status_code, str(error.detail), headers=error.headers).response()


async def on_invalid(_: Request, error: Exception) -> JSONResponse:
    """Handler of a request that does not fit the schema: the first fault, named by its field."""
    assert isinstance(error, RequestValidationError)
    # Of a value that may be one thing or another, the fault that lies deepest is about the one that was meant.
    first = max(error.errors(), key=lambda fault: len(fault["loc"]))
    if tuple(first["loc"]) == ("body",) and first["type"] in _NO_OBJECT:
        said = "The body is not a JSON object; send one, with Content-Type: application/json."
        return ApiError(400, said, code=first["type"]).response()
    param = _name(first["loc"])
    where = f"{param}: " if param else ""
    return ApiError(400, f"{where}{first['msg']}.", param=param, code=first["type"]).response()


# What pydantic says of a body that is missing, or is something else than an object.
_NO_OBJECT = ("missing", "model_attributes_type", "model_type", "dict_type")
_TYPES = ("str", "int", "constrained-str")
_TAGS = ("text", "image_url")


def _name(location: Sequence[Any]) -> str | None:
    """`messages[0].content` from ("body", "messages", 0, "content", ...)."""
    if location[:1] == ("body",) and len(location) > 1 and isinstance(location[1], str):
        parts: list[str] = []
        for before, part in itertools.pairwise(location):
            # Between the fields pydantic names the alternatives of a union: `str`, `list[...]`, the tag of a part.
            alternative = str(part) in _TYPES or "[" in str(part) or (isinstance(before, int) and part in _TAGS)
            if not alternative:
                parts.append(f"[{part}]" if isinstance(part, int) else f".{part}")
        return "".join(parts).removeprefix(".")
    return None
